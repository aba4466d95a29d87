//! Whether the hooks are still what was attached, and if not, so again.
//!
//! ```text
//! link detached ─▶ attach a new one │ another program in it ─▶ ours │ pin gone, or another link's ─▶ pin it again
//! ```
//!
//! The link itself is held open, so the look is one system call and an `open`, and a pin that was removed has detached
//! nothing. Not here: when to look, and who counts.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya::programs::Program;
use mesh_common::{paths, programs};

use super::{CGROUP_PROGRAMS, Kernel, KernelError, attach_one, links};
use crate::netns::Netns;

/// What had become of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It was taken off its cgroup or namespace: it has not run since.
    Detached,
    /// Another program was put in its place.
    Replaced,
    /// Its pin was gone, or stood for something else: it would have gone with the agent.
    Unpinned,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Detached => "it was detached",
            Self::Replaced => "another program was in its place",
            Self::Unpinned => "its pin was gone",
        })
    }
}

impl Kernel {
    /// Puts right what is wrong with the cgroup's hooks. Returns what was. Nothing before [`Kernel::attach`].
    pub fn verify_hooks(&mut self) -> Result<Vec<(&'static str, Wrong)>, KernelError> {
        let Self { ebpf, pins, cgroup: Some(directory), hooks, .. } = self else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for name in CGROUP_PROGRAMS {
            let Some(link) = hooks.get_mut(name) else { continue };
            let program = ebpf.program_mut(name).ok_or(KernelError::Missing(name))?;
            let pin = pins.join(paths::LINKS).join(name);
            let wrong = put_right(link, &pin, program, directory).map_err(|source| KernelError::Attach {
                name,
                target: "the cgroup again".into(),
                source,
            })?;
            found.extend(wrong.map(|wrong| (name, wrong)));
        }
        Ok(found)
    }

    /// The same for a pod's `sk_lookup`. Nothing before [`Kernel::attach_pod`].
    pub fn verify_pod(&mut self, netns: &Netns) -> Result<Option<Wrong>, KernelError> {
        let pin = self.pod_pin(netns.cookie());
        let name = programs::SK_LOOKUP;
        let Self { ebpf, lookups, .. } = self;
        let Some(link) = lookups.get_mut(&netns.cookie()) else { return Ok(None) };
        let program = ebpf.program_mut(name).ok_or(KernelError::Missing(name))?;
        put_right(link, &pin, program, netns).map_err(|source| KernelError::Attach {
            name,
            target: format!("network namespace {} again", netns.cookie()),
            source,
        })
    }
}

/// Looks at one link and puts right what is wrong with it. Returns what was.
fn put_right(
    link: &mut OwnedFd,
    pin: &Path,
    program: &mut Program,
    target: &impl AsFd,
) -> io::Result<Option<Wrong>> {
    let wrong = look(link.as_fd(), pin, program)?;
    match wrong {
        Some(Wrong::Detached) => {
            links::remove(pin)?;
            *link = attach_one(program, pin, target)?;
        }
        Some(Wrong::Replaced) => {
            links::update(link.as_fd(), program.fd().map_err(io::Error::other)?.as_fd())?;
        }
        Some(Wrong::Unpinned) => links::pin_again(link.as_fd(), pin)?,
        None => {}
    }
    Ok(wrong)
}

fn look(link: BorrowedFd<'_>, pin: &Path, program: &Program) -> io::Result<Option<Wrong>> {
    let held = links::info(link)?;
    if !held.is_attached() {
        return Ok(Some(Wrong::Detached));
    }
    if held.program != program.info().map_err(io::Error::other)?.id() {
        return Ok(Some(Wrong::Replaced));
    }
    let pinned = links::open(pin).and_then(|pinned| links::info(pinned.as_fd()));
    Ok((!pinned.is_ok_and(|pinned| pinned.id == held.id)).then_some(Wrong::Unpinned))
}
