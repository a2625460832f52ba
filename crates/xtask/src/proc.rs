//! What the kernel says about a process: when it started, its CPU time, its memory, its file descriptors.

use std::fs;

use anyhow::{Context, Result};

/// The kernel reports times of `/proc` in hundredths of a second on every architecture that Linux runs on today.
const TICKS_PER_SECOND: f64 = 100.0;

/// When the process was started, in clock ticks since boot. Together with the id it names a process for good: ids are
/// given out again, but not in the same tick.
pub fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // A zombie has ended, only nobody has asked for its status yet.
    if field(&stat, 3)? == "Z" {
        return None;
    }
    field(&stat, 22)?.parse().ok()
}

/// CPU seconds, user and system, that the process has used so far.
///
/// # Errors
/// There is no such process.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("no process {pid}"))?;
    let ticks = |index| field(&stat, index).and_then(|text| text.parse::<f64>().ok());
    let user = ticks(14).context("no user time in /proc/PID/stat")?;
    let system = ticks(15).context("no system time in /proc/PID/stat")?;
    Ok((user + system) / TICKS_PER_SECOND)
}

/// The most resident memory that the process has had at once, in bytes.
///
/// # Errors
/// There is no such process.
pub fn peak_memory(pid: u32) -> Result<u64> {
    status(pid, "VmHWM:")
}

/// The resident memory that the process has now, in bytes.
///
/// # Errors
/// There is no such process.
pub fn memory(pid: u32) -> Result<u64> {
    status(pid, "VmRSS:")
}

/// How many file descriptors the process has open.
///
/// # Errors
/// There is no such process, or it is another user's.
pub fn descriptors(pid: u32) -> Result<usize> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).with_context(|| format!("no process {pid} of ours"))?;
    Ok(open.count())
}

/// An amount of memory from `/proc/PID/status`, in bytes.
fn status(pid: u32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("no process {pid}"))?;
    let kibibytes: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok())
        .with_context(|| format!("no {name} in /proc/PID/status"))?;
    Ok(kibibytes * 1024)
}

/// A field of `/proc/PID/stat`, numbered from 1 as in proc(5). The second is the name, which may hold anything.
fn field(stat: &str, number: usize) -> Option<&str> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(number.checked_sub(3)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_a_name_with_spaces_and_brackets() {
        let stat = "17 (a ) b) S 1 17 17 0 -1 4194560 9 0 0 0 31 12 0 0 20 0 1 0 4711 1000 5";
        assert_eq!(field(stat, 3), Some("S"));
        assert_eq!(field(stat, 14), Some("31"));
        assert_eq!(field(stat, 15), Some("12"));
        assert_eq!(field(stat, 22), Some("4711"));
    }

    #[test]
    fn this_process_has_a_start_and_memory_and_descriptors() {
        let pid = std::process::id();
        assert!(started(pid).is_some());
        assert!(cpu_seconds(pid).unwrap() >= 0.0);
        assert!(peak_memory(pid).unwrap() > 100_000);
        assert!(memory(pid).unwrap() > 100_000);
        assert!(descriptors(pid).unwrap() >= 3);
    }

    #[test]
    fn an_id_above_the_largest_names_no_process() {
        assert_eq!(started(u32::MAX), None);
    }
}
