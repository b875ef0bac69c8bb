//! A process and what it used: user and system time, wall time and peak memory of that process alone.

use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Arguments;

/// What a process used and said.
#[derive(Clone, Debug)]
pub(crate) struct Used {
    /// User and system time.
    pub(crate) cpu: Duration,
    /// From its start to its end.
    pub(crate) wall: Duration,
    /// Greatest resident size.
    pub(crate) peak_mib: u64,
    /// Rows that it made; set by who knows how it says so.
    pub(crate) rows: u64,
    /// Checkpoints that it wrote, one per interval of wall time: a slow run of keyfold writes more; likewise.
    pub(crate) checkpoints: u64,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cpu, wall) = (self.cpu.as_secs_f64(), self.wall.as_secs_f64());
        write!(f, "cpu {cpu:6.3} s  wall {wall:6.3} s  peak {:4} MiB  rows {}", self.peak_mib, self.rows)?;
        if self.checkpoints > 0 { write!(f, "  checkpoints {}", self.checkpoints) } else { Ok(()) }
    }
}

/// A process that will be measured.
#[derive(Debug)]
pub(crate) struct Process(Command);

/// This program as its own child.
pub(crate) fn this_program(arguments: &Arguments, child: &[&str]) -> Process {
    let mut command = Command::new(std::env::current_exe().expect("the system knows what it runs"));
    command.args(["--events", &arguments.events.to_string(), "--users", &arguments.users.to_string()]).args(child);
    Process(command)
}

/// `like`, but of this program.
pub(crate) fn command(program: &Path, like: Command) -> Process {
    let mut command = Command::new(program);
    command.args(like.get_args());
    if let Some(folder) = like.get_current_dir() {
        command.current_dir(folder);
    }
    if let Some(wrapper) = std::env::var_os("BENCH_WRAPPER") {
        return Process(wrapped(&wrapper, &command));
    }
    Process(command)
}

/// The same under a profiler: `BENCH_WRAPPER="perf record -o out"`.
fn wrapped(wrapper: &OsStr, command: &Command) -> Command {
    let mut words = wrapper.to_str().expect("a plain command line").split_whitespace();
    let mut outer = Command::new(words.next().expect("a command"));
    outer.args(words).arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        outer.current_dir(folder);
    }
    outer
}

impl Process {
    /// Runs it to its end, which must be a good one.
    pub(crate) fn run(mut self) -> Used {
        // Files, not pipes: nothing has to read while the process runs.
        let files = [(); 2].map(|()| tempfile::tempfile().expect("the system has a folder for temporary files"));
        let [mut stdout, mut stderr] = files;
        let of = |file: &std::fs::File| file.try_clone().expect("a file has a second handle");
        self.0.stdin(Stdio::null()).stdout(of(&stdout)).stderr(of(&stderr));
        let started = Instant::now();
        #[expect(clippy::zombie_processes, reason = "`wait` below reaps it, and tells what it used")]
        let child = self.0.spawn().expect("the program starts");
        let (status, usage) = wait(child.id());
        let wall = started.elapsed();
        let said = |file: &mut std::fs::File| {
            let mut text = String::new();
            file.rewind().and_then(|()| file.read_to_string(&mut text)).expect("what it said is text");
            text
        };
        let (stdout, stderr) = (said(&mut stdout), said(&mut stderr));
        assert!(status == 0, "{:?} ended with status {status:#x}:\n{stdout}{stderr}", self.0);
        let cpu = duration(usage.ru_utime) + duration(usage.ru_stime);
        let peak_mib = u64::try_from(usage.ru_maxrss).unwrap_or(0) / 1024;
        Used { cpu, wall, peak_mib, rows: 0, checkpoints: 0, stdout, stderr }
    }
}

/// Waits for a child; its status and what it used, its own children included.
fn wait(id: u32) -> (libc::c_int, libc::rusage) {
    let id = libc::pid_t::try_from(id).expect("the system's ids of processes are of this type");
    let mut status = 0;
    // SAFETY: a structure of numbers, of which zero is one.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to values of the types asked for that live through the call.
        if unsafe { libc::wait4(id, &raw mut status, 0, &raw mut usage) } == id {
            return (status, usage);
        }
        let error = std::io::Error::last_os_error();
        assert!(error.kind() == std::io::ErrorKind::Interrupted, "cannot wait for a child: {error}");
    }
}

fn duration(time: libc::timeval) -> Duration {
    let part = |n: i64| u64::try_from(n).expect("a process does not use less than nothing");
    Duration::from_secs(part(time.tv_sec)) + Duration::from_micros(part(time.tv_usec))
}
