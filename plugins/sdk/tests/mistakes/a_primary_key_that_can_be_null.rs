use keyfold_sdk::{Json, Row};

#[derive(Row)]
#[row(table = "counts")]
struct Count {
    #[row(key)]
    user: Option<String>,
}

type Nick = Option<String>;

#[derive(Row)]
#[row(table = "counts")]
struct ByAlias {
    #[row(key)]
    user: Nick,
}

#[derive(Row)]
#[row(table = "counts")]
struct ByJson {
    #[row(key)]
    user: Json,
}

fn main() {}
