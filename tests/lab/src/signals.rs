//! Ctrl-C and SIGTERM while labs are up: take them away, then end as the signal would have.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{pipe2, read};

use crate::place::Place;
use crate::teardown;

/// Labs of this process that are up.
static LIVE: Mutex<BTreeSet<Place>> = Mutex::new(BTreeSet::new());
/// Where the handler writes: the one thing it may do.
static PIPE: AtomicI32 = AtomicI32::new(-1);
/// This process was told to end: labs are being taken away under the feet of whoever uses them.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Has a lab taken away when this process is told to end.
pub(crate) fn watch(place: &Place) {
    static INSTALLED: Once = Once::new();
    LIVE.lock().unwrap_or_else(PoisonError::into_inner).insert(place.clone());
    INSTALLED.call_once(|| {
        // Without it the guard still does the work once the process has ended.
        if let Err(error) = install() {
            eprintln!("no clean-up on Ctrl-C by this process: {error}");
        }
    });
}

/// Whether this process was told to end.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// A lab is gone or is no longer ours to remove.
pub(crate) fn forget(place: &Place) {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner).remove(place);
}

fn install() -> nix::Result<()> {
    let (told, tell) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    PIPE.store(tell.into_raw_fd(), Ordering::SeqCst);
    thread::Builder::new()
        .name("lab-signals".into())
        .spawn(move || obey(&told))
        .map_err(|_| nix::errno::Errno::EAGAIN)?;
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler does one write(2), which is async-signal-safe, and keeps errno.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

extern "C" fn note(signal: i32) {
    let byte = [signal as u8];
    // SAFETY: one byte of this stack frame to a pipe of ours; errno is put back for the interrupted code.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(PIPE.load(Ordering::SeqCst), byte.as_ptr().cast(), 1);
        *libc::__errno_location() = errno;
    }
}

/// The threads that use the lab go on while it is taken away: what they made behind the first pass goes with the next.
/// What they make behind the last one is the guard's.
fn remove(place: &Place) -> anyhow::Result<()> {
    const PASSES: u32 = 20;
    let mut result = teardown::remove(place);
    for _ in 1..PASSES {
        if result.is_ok() && teardown::left(place).is_empty() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
        result = teardown::remove(place);
    }
    result
}

fn obey(told: &OwnedFd) {
    let mut byte = [0_u8; 1];
    while read(told, &mut byte) != Ok(1) {}
    INTERRUPTED.store(true, Ordering::SeqCst);
    let live = LIVE.lock().unwrap_or_else(PoisonError::into_inner).clone();
    // Behind the terminal's own "^C".
    let newline = if std::io::stderr().is_terminal() { "\n" } else { "" };
    eprintln!("{newline}interrupted: taking {} lab(s) away", live.len());
    for place in live {
        if let Err(error) = remove(&place) {
            eprintln!("lab {}: {error:#}", place.id());
        }
    }
    std::process::exit(128 + i32::from(byte[0]));
}
