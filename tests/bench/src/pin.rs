//! Programs of a node on one core.
//!
//! A program inherits the cores of the thread that starts it, also through the lab's own threads; so the thread is moved,
//! the program started and the thread moved back. Nothing that runs is moved: an agent sizes itself by the cores that it
//! finds when it starts.

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Runs `start` with the calling thread, and so what it starts, on one core; anywhere if there is none to be on.
pub fn on_core<T>(core: Option<usize>, start: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(core) = core else { return start() };
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this).context("read this thread's cores")?;
    let mut one = CpuSet::new();
    one.set(core)?;
    sched_setaffinity(this, &one).with_context(|| format!("move to core {core}"))?;
    let result = start();
    sched_setaffinity(this, &before).context("move back to all cores")?;
    result
}

/// How many cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
