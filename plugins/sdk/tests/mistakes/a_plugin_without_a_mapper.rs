struct Plugin;

keyfold_sdk::plugin!(Plugin);

fn main() {}
