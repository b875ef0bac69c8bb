//! Checks whether the machine has the memory that the plugin's instances may use.

use crate::config::Config;
use crate::failure::Check;
use crate::symptom::Symptom;

/// Checks the memory, assuming that every worker runs a plugin that uses all it may.
pub(super) fn examine(config: &Config) -> Check {
    let limit = limit(|file| std::fs::read_to_string(file).ok());
    judge(config.run.workers, config.plugin.limits.memory_bytes, limit)
}

fn judge(workers: usize, each: u64, limit: Option<u64>) -> Check {
    let wanted = each.saturating_mul(workers as u64);
    let text = format!("{workers} worker(s) may use {} MiB each", each >> 20);
    match limit {
        Some(limit) if wanted > limit => {
            let detail = format!(
                "{text}, {} MiB in total, but only {} MiB are available: a plugin that uses its limit can get the host killed",
                wanted >> 20,
                limit >> 20
            );
            Check::warning("memory", detail).of(Symptom::MemoryShort)
        }
        Some(limit) => Check::fine("memory", format!("{text}, of {} MiB", limit >> 20)),
        None => Check::fine("memory", text),
    }
}

/// Returns the smaller of the machine's memory and its control group's limit, bytes.
fn limit(read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let group = group.iter().find_map(|file| read(file)?.trim().parse::<u64>().ok());
    let machine = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    [group, machine.map(|kib| kib << 10)].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_s_limit_counts_where_it_is_lower_than_the_machine_s() {
        let files = |max: Option<&'static str>| {
            move |file: &str| match file {
                "/sys/fs/cgroup/memory.max" => max.map(str::to_owned),
                "/proc/meminfo" => Some("MemTotal:        8000000 kB\nMemFree: 1 kB\n".to_owned()),
                _ => None,
            }
        };
        assert_eq!(limit(files(Some("536870912\n"))), Some(512 << 20));
        assert_eq!(limit(files(Some("max\n"))), Some(8_000_000 << 10));
        assert_eq!(limit(files(None)), Some(8_000_000 << 10));
        assert_eq!(limit(|_| None), None);
    }

    #[test]
    fn workers_that_fit_are_fine_and_those_that_do_not_are_warned_of() {
        assert_eq!(judge(2, 256 << 20, Some(512 << 20)).symptom, None);
        assert_eq!(judge(4, 256 << 20, Some(512 << 20)).symptom, Some(Symptom::MemoryShort));
        assert_eq!(judge(4, 256 << 20, None).symptom, None);
    }
}
