//! Files of keyed state and their manifests as targets of fuzzing.

use bytes::Bytes;

use crate::plugin::fuzz::read_all;
use crate::state::chain;
use crate::state::file;
use crate::state::layout;
use crate::state::manifest::Manifest;
use crate::state::slot::Slot;

/// A record, and the same after another one.
pub(crate) fn record(bytes: &[u8]) {
    let Ok(record) = layout::decode(bytes) else { return };
    if let Ok(Some(state)) = record.state() {
        read_all(&state.list);
        let (mut slot, mut again) = (Slot::new(b"key", true), Vec::new());
        slot.set_state(&state);
        layout::encode(&slot, &mut again);
        let again = layout::decode(&again).and_then(|record| record.state());
        assert_eq!(again, Ok(Some(state)), "written again, it says the same");
    }
    if let Ok(both) = layout::combine(bytes, bytes) {
        assert!(layout::decode(&both).is_ok(), "what was put together is a record");
    }
}

/// The index of a file; and a block.
pub(crate) fn file(bytes: &[u8]) {
    file::read_any(bytes);
}

/// A link of a chain, whose body is a manifest.
pub(crate) fn manifest(bytes: &[u8]) {
    let Ok(body) = chain::body_of(&Bytes::copy_from_slice(bytes)) else { return };
    let Ok(manifest) = Manifest::decode(&body) else { return };
    assert_eq!(Manifest::decode(&manifest.encode()).as_ref(), Ok(&manifest), "written again, it says the same");
}
