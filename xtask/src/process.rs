//! Running other programs: cleanly, interruptibly, and leaving none behind.
//!
//! A build shares the terminal with us, and a test does not: it gets a process group of its own and no standard input,
//! so that Ctrl-C reaches it once, from us, and its own children can be told from ours.
//!
//! Invariants: signals only ever go to processes that descend from this one; a program that was started has ended, or
//! been killed, when the function that started it returns.

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The last signal that asked us to end, or 0.
static INTERRUPTED: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: i32) {
    INTERRUPTED.store(signal, Ordering::Relaxed);
}

/// From here on SIGINT, SIGTERM and SIGHUP are noted (see [`interrupted`]) instead of ending us. A program that we
/// become starts without this.
pub(crate) fn watch_signals() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe, and lives as long as the program.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("cannot handle {signal}"))?;
    }
    Ok(())
}

/// From here on orphans of our children become our own children, so that they can be found. Not for who becomes
/// another program: that one would inherit it and not know.
pub(crate) fn adopt_orphans() -> Result<()> {
    nix::sys::prctl::set_child_subreaper(true).context("cannot adopt orphans")
}

/// The signal that asked us to end, if one did.
pub(crate) fn interrupted() -> Option<i32> {
    Some(INTERRUPTED.load(Ordering::Relaxed)).filter(|&signal| signal != 0)
}

/// A command without what `cargo run` put into our environment, so that a build that we start sees what the caller's
/// own build would see (otherwise cargo rebuilds for nothing, back and forth).
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        if name.starts_with("CARGO_PKG_")
            || [
                "CARGO",
                "CARGO_MANIFEST_DIR",
                "CARGO_MANIFEST_PATH",
                "CARGO_PRIMARY_PACKAGE",
                "LD_LIBRARY_PATH",
            ]
            .contains(&name)
        {
            command.env_remove(name);
        }
    }
    command
}

/// The cargo that started us, else the one in `PATH`.
pub(crate) fn cargo() -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Standard output of a short command, or `None` if it cannot be started or fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs to the end with our own standard streams; a signal to us is passed on. Not success: an error.
pub(crate) fn run(command: &mut Command, what: &str) -> Result<()> {
    finish(command.spawn().with_context(|| format!("cannot start {what}"))?, what)
}

/// The second half of [`run`], for a child that was started otherwise.
pub(crate) fn finish(child: Child, what: &str) -> Result<()> {
    check(wait(child, None)?, what)
}

/// Like [`run`], with both output streams in a log of which only the end is shown, and only if it fails.
pub(crate) fn run_logged(command: &mut Command, what: &str, log: &Path, limit: Duration) -> Result<()> {
    let file = fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot start {what}"))?;
    check(wait(child, Some(limit))?, what).with_context(|| {
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(15)..].join("\n");
        format!("the end of {}:\n{tail}\n", log.display())
    })
}

fn check(status: ExitStatus, what: &str) -> Result<()> {
    if let Some(signal) = interrupted() {
        bail!("interrupted by signal {signal} during {what}");
    }
    match status.signal() {
        Some(signal) => bail!("{what} was ended by signal {signal}"),
        None if status.success() => Ok(()),
        None => bail!("{what} failed with exit code {}", status.code().unwrap_or(-1)),
    }
}

fn wait(mut child: Child, limit: Option<Duration>) -> Result<ExitStatus> {
    let started = Instant::now();
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if let (Some(signal), false) = (interrupted(), told) {
            told = true;
            signal_to(pid_of(&child), Signal::try_from(signal).unwrap_or(Signal::SIGTERM));
        }
        if limit.is_some_and(|limit| started.elapsed() > limit) {
            child.kill()?;
            return Ok(child.wait()?);
        }
        thread::sleep(Duration::from_millis(30));
    }
}

/// The id of a child as nix has it.
pub(crate) fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

/// Sends a signal to a process, or with a negative id to a process group. One that has gone already is no error.
pub(crate) fn signal_to(pid: Pid, signal: Signal) {
    if let Err(error) = kill(pid, signal)
        && error != Errno::ESRCH
    {
        eprintln!("cannot send {signal} to {pid}: {error}");
    }
}

/// Every live process that descends from us, with its command line. Zombies are left out.
pub(crate) fn descendants() -> Vec<(Pid, String)> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        if let Some(parent) = parent_of_live(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut queue = vec![nix::unistd::getpid().as_raw()];
    while let Some(parent) = queue.pop() {
        for &pid in children.get(&parent).into_iter().flatten() {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned();
            found.push((Pid::from_raw(pid), line));
            queue.push(pid);
        }
    }
    found
}

/// The parent of a process that is not a zombie. The command name in `/proc/PID/stat` may hold blanks and brackets, so
/// fields are counted from its closing one.
fn parent_of_live(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (state != "Z" && state != "X").then(|| fields.next()?.parse().ok()).flatten()
}

/// Kills every descendant and reaps what became ours. To be called only when no [`Child`] is still waited for.
pub(crate) fn kill_descendants() {
    for _ in 0..50 {
        let left = descendants();
        for (pid, _) in &left {
            signal_to(*pid, Signal::SIGKILL);
        }
        reap_orphans();
        if left.is_empty() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Collects orphans that ended. To be called only when no [`Child`] is still waited for: it would lose its status.
pub(crate) fn reap_orphans() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}
