use keyfold_sdk::Row;

#[derive(Row)]
#[row(table = "counts")]
struct Count {
    user: String,
    actions: i64,
}

fn main() {}
