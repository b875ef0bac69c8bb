//! Sessions as one would fold them by hand: a HashMap, a heap of timers, one watermark. No durability, no order between partitions, so
//! its sessions are not quite the right ones; what it does per event is.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::Hasher;

use siphasher::sip::SipHasher24;

const SESSION_TIMEOUT_MS: i64 = 50_000;
const OUT_OF_ORDERNESS_MS: i64 = 10_000;

/// Open sessions.
#[derive(Debug)]
pub(crate) struct Fold {
    sessions: HashMap<i64, Session>,
    timers: BinaryHeap<Reverse<(i64, i64)>>,
    watermark: i64,
    /// Sessions that ended.
    pub(crate) rows: u64,
}

#[derive(Debug)]
struct Session {
    first_append_ms: i64,
    pages: Vec<String>,
    timer: i64,
}

impl Fold {
    /// Nothing yet.
    pub(crate) fn new() -> Fold {
        Fold { sessions: HashMap::new(), timers: BinaryHeap::new(), watermark: i64::MIN, rows: 0 }
    }

    /// One visit.
    pub(crate) fn visit(&mut self, append_ms: i64, user: i64, page: &str, event_ms: i64) {
        let now = if self.watermark == i64::MIN { event_ms } else { self.watermark };
        let timer = now + SESSION_TIMEOUT_MS;
        let session = self.sessions.entry(user).or_insert_with(|| {
            self.timers.push(Reverse((timer, user)));
            Session { first_append_ms: append_ms, pages: Vec::new(), timer }
        });
        session.pages.push(page.to_owned());
        session.timer = timer;
        self.watermark = self.watermark.max(event_ms - OUT_OF_ORDERNESS_MS);
        self.end_sessions();
    }

    fn end_sessions(&mut self) {
        while let Some(&Reverse((time, user))) = self.timers.peek().filter(|entry| entry.0.0 <= self.watermark) {
            self.timers.pop();
            let timer = self.sessions[&user].timer;
            if timer > time {
                self.timers.push(Reverse((timer, user)));
            } else if let Some(session) = self.sessions.remove(&user) {
                std::hint::black_box((session_id(session.first_append_ms), user, session.pages));
                self.rows += 1;
            }
        }
    }
}

/// The seed's.
fn session_id(first_append_ms: i64) -> i64 {
    let mut hash = SipHasher24::new_with_keys(0, 0);
    hash.write((first_append_ms.div_euclid(1000) * 1000).to_string().as_bytes());
    hash.finish().cast_signed()
}
