use keyfold_sdk::Stored;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Stored)]
struct Basket<'a> {
    item: &'a str,
}

#[derive(Serialize, Deserialize, Stored)]
struct Any<T> {
    item: T,
}

fn main() {}
