use keyfold_sdk::Description;

struct Count {
    user: String,
}

fn main() {
    Description::new("counts", "1").rows::<Count>();
}
