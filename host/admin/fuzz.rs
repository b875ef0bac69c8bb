//! Documents of the admin API as a target of fuzzing.

use crate::admin::server::is_this_machine;
use crate::admin::{Answer, ShadowAnswer, Wanted, Withdrawal};
use crate::rollout::order;

/// The body of a request or of an answer, and the header of a request that names its host.
pub(crate) fn documents(bytes: &[u8]) {
    if let Ok(wanted) = serde_json::from_slice::<Wanted>(bytes) {
        let _ = order::settable(&wanted.set.keys().cloned().collect::<Vec<_>>());
        let again = serde_json::to_vec(&wanted).expect("can be sent");
        let read = serde_json::from_slice::<Wanted>(&again).expect("what is sent can be read");
        assert_eq!(serde_json::to_vec(&read).expect("can be sent"), again);
    }
    let _ = serde_json::from_slice::<Withdrawal>(bytes);
    let _ = serde_json::from_slice::<ShadowAnswer>(bytes);
    if let Ok(answer) = serde_json::from_slice::<Answer>(bytes) {
        answer.checks.iter().for_each(|line| drop(line.check()));
    }
    is_this_machine(&String::from_utf8_lossy(bytes));
}
