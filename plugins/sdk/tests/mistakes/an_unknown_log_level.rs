use keyfold_sdk::{Key, Mapper};

fn on_event<M: Mapper>(key: &mut Key<'_, M>) {
    keyfold_sdk::log!(key, Trace, "seen");
}

fn main() {}
