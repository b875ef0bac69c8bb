use keyfold_sdk::Stored;

#[derive(Stored)]
struct Basket {
    items: Vec<String>,
}

fn main() {}
