use keyfold_sdk::Row;

#[derive(Row)]
#[row(table = "counts")]
struct Count<'a, T> {
    #[row(key)]
    user: &'a str,
    actions: T,
}

fn main() {}
