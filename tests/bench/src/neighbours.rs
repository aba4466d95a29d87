//! How busy others kept the machine: a figure that was taken beside a compiler is none.
//!
//! ```text
//!   before the run   1 s with nothing of ours: busy share of all cores
//!   in each window   CPU of every process outside the lab, and time that the hypervisor took
//! ```
//!
//! Others' CPU is the sum over their processes of own and waited-for children's time. A process that ends hands its sum to
//! its parent, so the difference of two sums counts it too; one that nobody waits for is missed. Kernel threads are not
//! counted: packets of the bench itself are moved in some of them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::cpu::{MachineTime, ticks_per_second};

/// Share of the machine above which a figure is not to be trusted.
pub const DISTURBING: f64 = 0.05;
/// `PF_KTHREAD` (`linux/sched.h`).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Busy share of the machine over one second.
pub fn idle_sample() -> Result<f64> {
    let before = MachineTime::now()?;
    thread::sleep(Duration::from_secs(1));
    let passed = MachineTime::now()?.since(before);
    Ok((passed.busy + passed.steal) / passed.total.max(f64::MIN_POSITIVE))
}

/// Knows whose processes are whose.
#[derive(Debug)]
pub struct Neighbours {
    /// Path of the lab's cgroup as `/proc/PID/cgroup` has it.
    ours: String,
    /// By pid and start time: whether it is ours. A process hardly ever changes its cgroup.
    known: HashMap<(u32, u64), bool>,
    hertz: f64,
}

/// A process as `/proc/PID/stat` tells.
struct Stat {
    start: u64,
    kernel: bool,
    /// Own and waited-for children's, in ticks.
    time: u64,
}

impl Neighbours {
    /// Neighbours of what is below `cgroup`, and of this process.
    pub fn of(cgroup: PathBuf) -> Result<Self> {
        let root = lab::cgroup::mount_point()?;
        let below = cgroup.strip_prefix(&root).unwrap_or(&cgroup);
        Ok(Self {
            ours: format!("0::/{}/", below.display()),
            known: HashMap::new(),
            hertz: ticks_per_second(),
        })
    }

    /// Seconds of CPU that others have used so far; only differences mean something.
    pub fn time(&mut self) -> f64 {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let mut ticks = 0;
        let mut seen = HashMap::new();
        for pid in pids {
            // Gone meanwhile: its parent has its time.
            let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            let Some(stat) = parse(&text) else { continue };
            if stat.kernel || pid == std::process::id() {
                continue;
            }
            let key = (pid, stat.start);
            let ours = self.known.get(&key).copied().unwrap_or_else(|| self.is_ours(pid));
            seen.insert(key, ours);
            if !ours {
                ticks += stat.time;
            }
        }
        self.known = seen;
        ticks as f64 / self.hertz
    }

    fn is_ours(&self, pid: u32) -> bool {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        text.lines().any(|line| line.starts_with(&self.ours))
    }
}

fn parse(stat: &str) -> Option<Stat> {
    // The name in parentheses may hold anything; the rest are numbers (proc_pid_stat(5), from field 3).
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let time = (14..=17).map(number).sum::<Option<u64>>()?;
    Some(Stat { start: number(22)?, kernel: number(9)? & KERNEL_THREAD != 0, time })
}

#[cfg(test)]
mod tests;
