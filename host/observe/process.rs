//! What the operating system says of this process and of the disk of its state. No row depends on it.

use std::path::Path;

/// Numbers of this process; what the system does not tell is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// CPU time, user and system, seconds.
    pub cpu_seconds: Option<f64>,
    /// Memory that it occupies, bytes.
    pub resident_bytes: Option<f64>,
    /// Its address space, bytes.
    pub virtual_bytes: Option<f64>,
    /// Files that it has open.
    pub open_files: Option<f64>,
    /// How many it may have open.
    pub most_files: Option<f64>,
    /// Its threads.
    pub threads: Option<f64>,
    /// When it started, seconds since 1970.
    pub started: Option<f64>,
}

/// Reads the numbers of this process.
pub fn read() -> Process {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    // SAFETY: plain questions about the system.
    let (ticks, page) = unsafe { (libc::sysconf(libc::_SC_CLK_TCK), libc::sysconf(libc::_SC_PAGESIZE)) };
    let open_files = std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as f64);
    let process = of(&text("/proc/self/stat"), &text("/proc/stat"), ticks as f64, page as f64);
    Process { open_files, most_files: most_files(), ..process }
}

/// The numbers of `/proc/self/stat`, with the machine's start by `/proc/stat`.
fn of(own: &str, machine: &str, ticks: f64, page: f64) -> Process {
    // The second field is a name in parentheses, which may have spaces; the fields after it are counted from the third.
    let fields: Vec<&str> = own.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let booted = machine.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    Process {
        cpu_seconds: field(14).zip(field(15)).map(|(user, system)| (user + system) / ticks),
        threads: field(20),
        started: field(22).zip(booted).map(|(after, booted)| booted + after / ticks),
        virtual_bytes: field(23),
        resident_bytes: field(24).map(|pages| pages * page),
        open_files: None,
        most_files: None,
    }
}

fn most_files() -> Option<f64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is written to.
    let told = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
    told.then_some(limit.rlim_cur as f64)
}

/// Returns how many bytes this user can still write to the file system of a folder.
pub fn free_bytes(folder: &Path) -> Option<f64> {
    let path = std::ffi::CString::new(folder.as_os_str().as_encoded_bytes()).ok()?;
    // SAFETY: zeroes are a valid `statvfs`, which is written to; the path is a string of C.
    unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &mut found) == 0).then_some(found.f_bavail as f64 * found.f_frsize as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_process_are_found_behind_its_name() {
        let own =
            "42 (a (b) c) S 1 42 42 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 7 0 1000 4096000 25 18446744073709551615";
        let process = of(own, "cpu 1 2 3\nbtime 1700000000\n", 100.0, 4096.0);
        assert_eq!(
            (process.cpu_seconds, process.threads, process.started),
            (Some(2.0), Some(7.0), Some(1_700_000_010.0))
        );
        assert_eq!((process.virtual_bytes, process.resident_bytes), (Some(4_096_000.0), Some(102_400.0)));
        assert_eq!(of("", "", 100.0, 4096.0), Process::default());
    }

    #[test]
    fn this_process_has_files_and_its_disk_has_room() {
        if cfg!(target_os = "linux") {
            let process = read();
            assert!(process.open_files > Some(2.0) && process.most_files >= process.open_files, "{process:?}");
        }
        assert!(free_bytes(&std::env::temp_dir()).is_some());
        assert_eq!(free_bytes(Path::new("/no/such/folder")), None);
    }
}
