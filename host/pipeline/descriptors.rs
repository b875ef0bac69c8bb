//! Open files: how many a host needs, and the limit of the process. A host that runs out of them in mid-run can write neither rows nor
//! checkpoints, so a limit that is too low is refused at the start.

use crate::failure::Failure;

/// Files that a host needs besides its lanes: plugin, sink, admin API, logs.
const BASE: u64 = 64;
/// Files of a lane: two databases, and its connections to the brokers.
const OF_A_LANE: u64 = 16;

/// Raises the soft limit of open files to the hard one, and refuses a limit that is too low for so many lanes.
pub(super) fn ensure(lanes: usize) -> Result<(), Failure> {
    let needed = BASE + OF_A_LANE * lanes as u64;
    judge(lanes, needed, raise())
}

fn judge(lanes: usize, needed: u64, limit: Option<u64>) -> Result<(), Failure> {
    match limit {
        Some(limit) if limit < needed => Err(Failure::outside(format!(
            "{lanes} lane(s) need about {needed} open files, but this process may have only {limit}: raise the limit (`ulimit -n`, LimitNOFILE= in \
             systemd, --ulimit nofile= in Docker), or use source.kafka.ordering = \"topic\", which has one lane"
        ))),
        _ => Ok(()),
    }
}

/// Raises the soft limit as far as this process may; returns it, if the system tells.
fn raise() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is written to, and read by the second call.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return None;
        }
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        if limit.rlim_cur < limit.rlim_max && libc::setrlimit(libc::RLIMIT_NOFILE, &raised) == 0 {
            limit = raised;
        }
    }
    Some(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_too_low_is_refused_with_both_numbers() {
        assert_eq!(judge(4, 128, Some(128)), Ok(()));
        assert_eq!(judge(4, 128, None), Ok(()));
        let failure = judge(4, 128, Some(127)).expect_err("one is missing");
        assert!(failure.message.contains("4 lane(s) need about 128 open files"), "{failure}");
        assert!(failure.message.contains("may have only 127"), "{failure}");
    }
}
