use keyfold_sdk::Row;

#[derive(Row)]
#[row(tabel = "counts")]
struct Misspelt {
    #[row(key)]
    user: String,
}

#[derive(Row)]
#[row(table = "counts")]
struct Unknown {
    #[row(primary_key)]
    user: String,
}

#[derive(Row)]
#[row(table = "counts")]
struct Twice {
    #[row(key)]
    user: String,
    #[row(name = "user")]
    name: String,
}

fn main() {}
