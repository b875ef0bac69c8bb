use keyfold_sdk::Row;

#[derive(Row)]
struct Count {
    #[row(key)]
    user: String,
}

fn main() {}
