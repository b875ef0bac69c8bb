use keyfold_sdk::Row;

#[derive(Row)]
#[row(table = "counts")]
struct Count<'a> {
    #[row(key)]
    user: &'a str,
    actions: u64,
    shares: Vec<f64>,
}

fn main() {}
