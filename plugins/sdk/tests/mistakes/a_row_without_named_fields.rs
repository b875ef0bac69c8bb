use keyfold_sdk::Row;

#[derive(Row)]
#[row(table = "counts")]
struct Count(#[row(key)] i64);

#[derive(Row)]
#[row(table = "events")]
enum Event {
    Seen,
}

fn main() {}
