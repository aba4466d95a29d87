//! The limit of open files of a process that runs.

use std::io;

use anyhow::{Context, Result};
use lab::Agent;

/// An agent with a low limit of open files; it has its own back when the handle goes.
#[derive(Debug)]
pub struct Starved {
    pid: i32,
    before: libc::rlimit,
}

impl Starved {
    /// Leaves an agent room for this many descriptors more than it has.
    ///
    /// The soft limit, which is the one that counts: a hard limit could not be given back without a capability that a test
    /// may not have.
    pub fn leave(agent: &Agent, room: u64) -> Result<Self> {
        let pid = agent.pid().context("the agent does not run")?;
        let before = limit(pid, None)?;
        // A new descriptor's number must be below the limit, whatever lies open above.
        let used = numbers(pid)?;
        let mut free = (0..).filter(|number| !used.contains(number));
        let bound = free.nth(room as usize).context("no number is free")?;
        limit(pid, Some(libc::rlimit { rlim_cur: bound, rlim_max: before.rlim_max }))?;
        Ok(Self { pid, before })
    }
}

impl Drop for Starved {
    fn drop(&mut self) {
        // The agent may have ended.
        let _gone = limit(self.pid, Some(self.before));
    }
}

fn numbers(pid: i32) -> Result<Vec<u64>> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// The hard and soft limits of a process.
pub fn limits(pid: i32) -> Result<(u64, u64)> {
    let found = limit(pid, None)?;
    Ok((found.rlim_cur, found.rlim_max))
}

fn limit(pid: i32, set: Option<libc::rlimit>) -> Result<libc::rlimit> {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let new = set.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both pointers are to live locals, or null, which prlimit(2) takes for "leave it".
    let result = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, new, &raw mut old) };
    if result < 0 {
        return Err(io::Error::last_os_error()).context("prlimit");
    }
    Ok(old)
}
