//! What happens to Kafka and Cassandra: they are paused, killed, stopped and started again.

use std::fmt;
use std::time::Duration;

use crate::plan::{TROUBLES, Trouble};
use crate::service::Service;
use crate::time::StormTime;

/// How often it happened to a service.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outages {
    pub(crate) pauses: u32,
    pub(crate) kills: u32,
    pub(crate) stops: u32,
    /// For how long the service did not answer.
    pub(crate) away: Duration,
}

impl fmt::Display for Outages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outages { pauses, kills, stops, away } = self;
        write!(f, "paused {pauses} times, killed {kills}, stopped {stops}; away for {:.0} s", away.as_secs_f64())
    }
}

/// Does what is planned within this length; the service works when this is over.
pub(crate) fn suffer(service: &Service, plan: &[(Duration, Trouble)], length: Duration, time: &StormTime) -> Outages {
    let mut outages = Outages::default();
    for (done, (after, trouble)) in plan.iter().enumerate() {
        let at = time.elapsed() + *after;
        if (done >= TROUBLES && at >= length) || !time.reaches(at) {
            break;
        }
        let began = time.elapsed();
        match *trouble {
            Trouble::Pause(length) => {
                service.call("pause");
                time.reaches(began + length);
                service.call("resume");
                outages.pauses += 1;
            }
            Trouble::Down { killed, pause } => {
                service.call(if killed { "kill" } else { "stop" });
                time.reaches(time.elapsed() + pause);
                service.start_again();
                *(if killed { &mut outages.kills } else { &mut outages.stops }) += 1;
            }
        }
        outages.away += time.elapsed() - began;
    }
    outages
}
