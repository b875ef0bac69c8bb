//! A process that runs, as the system sees it: CPU time, memory, threads and open files. Linux only.

use std::fs;
use std::time::Duration;

/// Ticks of a second in `/proc`: Linux shows all programs this many, whatever the kernel's own are.
const TICKS: u64 = 100;

/// A process, by its number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vitals(u32);

impl Vitals {
    /// Of the process with this number.
    pub(crate) fn of(id: u32) -> Vitals {
        Vitals(id)
    }

    /// User and system time so far, in steps of 10 ms.
    pub(crate) fn cpu(self) -> Duration {
        let stat = self.read("stat");
        // The second field is a name in parentheses, which may have spaces; user and system time are the 14th and 15th.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
        let ticks: u64 = fields.map(|field| field.parse::<u64>().expect("a number of ticks")).sum();
        Duration::from_millis(ticks * 1000 / TICKS)
    }

    /// Resident size now, bytes.
    pub(crate) fn resident(self) -> u64 {
        self.status("VmRSS:") * 1024
    }

    /// Greatest resident size so far, bytes.
    pub(crate) fn peak(self) -> u64 {
        self.status("VmHWM:") * 1024
    }

    /// Threads now.
    pub(crate) fn threads(self) -> u64 {
        self.status("Threads:")
    }

    /// Open files now.
    pub(crate) fn files(self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.0)).map_or(0, Iterator::count)
    }

    /// A number in its status; 0 once the process has ended.
    fn status(self, name: &str) -> u64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    fn read(self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.0)).unwrap_or_default()
    }
}

/// Bytes in MiB, for a table.
pub(crate) fn mib(bytes: u64) -> u64 {
    bytes >> 20
}
