//! Who used how much CPU: some processes by their cgroup, the machine by `/proc/stat`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

/// The cgroup2 directory that a process is in.
pub fn cgroup_of(pid: i32) -> Result<PathBuf> {
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/cgroup")).with_context(|| format!("cgroup of {pid}"))?;
    let path =
        text.lines().find_map(|line| line.strip_prefix("0::/")).context("a process outside cgroup2")?;
    Ok(lab::cgroup::mount_point()?.join(path))
}

/// CPU time of all that ever ran in a cgroup, threads that have ended too. Precise to the microsecond: it is the
/// scheduler's own sum, not the ticks of `/proc/PID/stat`.
pub fn cgroup_usage(directory: &Path) -> Result<Duration> {
    let path = directory.join("cpu.stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let usage =
        text.lines().find_map(|line| line.strip_prefix("usage_usec ")).and_then(|number| number.parse().ok());
    Ok(Duration::from_micros(usage.with_context(|| format!("no usage_usec in {}", path.display()))?))
}

/// The same of several groups together.
pub fn usage(directories: &[PathBuf]) -> Result<Duration> {
    directories.iter().map(|directory| cgroup_usage(directory)).sum()
}

/// CPU time of the whole machine since boot, in seconds summed over its cores.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MachineTime {
    /// Everything but idle and waiting for disks; what the hypervisor gave to others is not in it.
    pub busy: f64,
    /// What the hypervisor gave to others while somebody here wanted to run.
    pub steal: f64,
    /// All of it.
    pub total: f64,
}

impl MachineTime {
    /// Reads `/proc/stat`.
    pub fn now() -> Result<Self> {
        let text = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        let hertz = ticks_per_second();
        Self::parse(&text, hertz).context("no first line in /proc/stat")
    }

    fn parse(text: &str, hertz: f64) -> Option<Self> {
        let fields = text.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
        let times: Vec<f64> = fields.map(|field| field.parse::<f64>().ok()).collect::<Option<_>>()?;
        // user nice system idle iowait irq softirq steal; guest times are in user and nice already (proc_stat(5)).
        let [user, nice, system, idle, iowait, irq, softirq, steal] = *times.first_chunk()?;
        let busy = user + nice + system + irq + softirq;
        let total = busy + idle + iowait + steal;
        Some(Self { busy: busy / hertz, steal: steal / hertz, total: total / hertz })
    }

    /// What has passed since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            busy: self.busy - earlier.busy,
            steal: self.steal - earlier.steal,
            total: self.total - earlier.total,
        }
    }
}

/// Ticks of `/proc` per second.
pub fn ticks_per_second() -> f64 {
    // SAFETY: sysconf reads a constant; no memory is involved.
    let hertz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if hertz > 0 { hertz as f64 } else { 100.0 }
}

#[cfg(test)]
mod tests;
