//! Taking a lab away, whoever does it.
//!
//! ```text
//!   Lab dropped, stopped, or test panicked ─┐
//!   SIGINT, SIGTERM (signals)              ─┼─▶ remove: processes ─▶ pins ─▶ namespaces ─▶ cgroups ─▶ directory
//!   test process gone in any way (guard)   ─┤
//!   weft-lab sweep                         ─┘
//! ```
//!
//! Everything is found by the lab's id, nothing by what somebody remembers; doing it twice, or two at once, is harmless.
//! Pins go after the processes, so that nobody renews them; unlinking a pinned link detaches its program.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cgroup::Cgroup;
use crate::netns;
use crate::place::{BPFFS, NETNS_DIR, Place, names};

const DEADLINE: Duration = Duration::from_secs(20);

/// Removes everything of a lab. Goes on after a failure; the error names all that is left. With `WEFT_LAB_KEEP=1` in the
/// environment the lab's directory (logs, captures, objects) stays.
pub fn remove(place: &Place) -> Result<()> {
    let keep = std::env::var("WEFT_LAB_KEEP").is_ok_and(|value| value == "1");
    let mut problems = Vec::new();
    let mut note = |result: Result<()>| {
        if let Err(error) = result {
            problems.push(format!("{error:#}"));
        }
    };
    let cgroup = place.cgroup().ok().map(Cgroup::at);
    if let Some(cgroup) = &cgroup {
        note(cgroup.kill(DEADLINE));
    }
    for name in names(Path::new(BPFFS)) {
        if name.starts_with(&place.name_prefix()) {
            note(remove_tree(&Path::new(BPFFS).join(name)).map_err(Into::into));
        }
    }
    for name in names(Path::new(NETNS_DIR)) {
        if name.starts_with(&place.name_prefix()) {
            note(netns::remove(&Path::new(NETNS_DIR).join(name)));
        }
    }
    if let Some(cgroup) = &cgroup {
        note(cgroup.remove());
    }
    if !keep {
        note(remove_tree(&place.dir()).map_err(Into::into));
    }
    if problems.is_empty() {
        return Ok(());
    }
    bail!("{}", problems.join("; "))
}

/// `remove_dir_all`, content with less than all being there, and patient with somebody who removes it too.
fn remove_tree(path: &Path) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => return Ok(()),
            Err(error) if start.elapsed() > Duration::from_secs(2) => {
                return Err(io::Error::new(error.kind(), format!("remove {}: {error}", path.display())));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// What is left of a lab: names of namespaces, cgroups, pins and directories. Empty after [`remove`].
pub fn left(place: &Place) -> Vec<String> {
    let mut left = Vec::new();
    for directory in [BPFFS, NETNS_DIR] {
        for name in names(Path::new(directory)) {
            if name.starts_with(&place.name_prefix()) {
                left.push(format!("{directory}/{name}"));
            }
        }
    }
    left.extend(place.cgroup().ok().filter(|path| path.exists()).map(|path| path.display().to_string()));
    let directory = place.dir();
    if directory.exists() {
        left.push(directory.display().to_string());
    }
    left
}

/// Removes what is left of labs whose owner is dead; with `all`, also labs that were left up on purpose. Live labs are
/// never touched. Returns the ids of what was removed.
pub fn sweep(all: bool) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    let mut problems = Vec::new();
    for place in Place::all() {
        let detached = place.is_detached();
        let alive = !detached && place.owner().is_some_and(|owner| owner.is_alive());
        if alive || (detached && !all) {
            continue;
        }
        match remove(&place) {
            Ok(()) => removed.push(place.id().to_owned()),
            Err(error) => problems.push(format!("{}: {error:#}", place.id())),
        }
    }
    if problems.is_empty() { Ok(removed) } else { bail!("{}", problems.join("; ")) }
}

/// The guard's life: reads until its owner is gone or says that all is done, then removes what is left.
pub fn guard(place: &Place) -> Result<()> {
    use nix::sys::signal::{SigHandler, Signal, signal};
    for number in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: ignoring a signal installs no code.
        unsafe { signal(number, SigHandler::SigIgn) }?;
    }
    let mut word = [0_u8; 1];
    loop {
        match io::stdin().read(&mut word) {
            Ok(0) => break,
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    if place.is_detached() {
        return Ok(());
    }
    // A pod that the dying process was just making may appear behind the first pass.
    let start = Instant::now();
    loop {
        let result = remove(place);
        let alive = place.owner().is_some_and(|owner| owner.is_alive());
        if (result.is_ok() && !alive) || start.elapsed() > DEADLINE {
            return result;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
