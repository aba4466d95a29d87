//! The kernel half, seen from the agent: load, attach, pin, and the maps as typed handles.
//!
//! ```text
//! object ─▶ load (maps: reuse what is pinned) ─▶ let the agent pass ─▶ attach at the cgroup root ─▶ attach per pod
//! ```
//!
//! Invariants: the agent's own cgroup is let pass before any hook is attached; hooks are replaced, never detached, when
//! an agent starts over a predecessor's; nothing here decides anything about a connection. `lower` turns the model into
//! map entries; `preflight` says what is missing on this node; `hold` lets go of it and comes back.

pub mod exclusions;
pub mod lower;
pub mod maps;
pub mod preflight;

mod guard;
mod hold;
mod links;
mod verify;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, Program, ProgramError, SkLookup, SockOps};
use aya::{Ebpf, EbpfError, EbpfLoader};
use aya_log::{EbpfLogger, Level};
use mesh_common::{Settings, maps as map_names, paths, programs};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::netns::Netns;
use crate::quiet::Quiet;
use maps::Maps;

pub use maps::MapFailure;

/// The object that `cargo xtask build-ebpf` made, or nothing.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh.bpf.o"));

/// The programs that are attached to the cgroup root.
const CGROUP_PROGRAMS: [&str; 5] =
    [programs::CONNECT4, programs::CONNECT6, programs::PEERNAME4, programs::PEERNAME6, programs::SOCKOPS];

/// Why the kernel half could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Built without the eBPF object.
    #[error(
        "this mesh-agent was built without its eBPF object; run `cargo xtask build-ebpf` and build again"
    )]
    Stub,
    /// A directory of pins could not be made.
    #[error("cannot make {path} (is a bpffs mounted there? `mount -t bpf bpf /sys/fs/bpf`)")]
    Pins {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A cgroup of kubelet's went as it was looked at.
    #[error("cannot look at kubelet's cgroup {path}")]
    Kubepods {
        /// Its directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The object was refused.
    #[error("cannot load the eBPF object (`mesh-agent check` names what this kernel lacks)")]
    Load(#[source] Box<EbpfError>),
    /// The object lacks a map or program that this agent knows.
    #[error("the eBPF object has no {0}; it was built from other sources (`cargo xtask build-ebpf`)")]
    Missing(&'static str),
    /// A pinned map is of another layout.
    #[error("map {map} is of another layout (left by another version? `mesh-agent reset` removes it)")]
    Layout {
        /// The map.
        map: &'static str,
        /// Why.
        #[source]
        source: aya::maps::MapError,
    },
    /// Pinned by an agent of another layout.
    #[error("the pinned maps are of layout {found}, this agent's is {ours}; `mesh-agent reset` removes them")]
    Abi {
        /// What was found.
        found: u32,
        /// What this agent writes.
        ours: u32,
    },
    /// A program was refused.
    #[error("cannot load program {name}")]
    Program {
        /// The program.
        name: &'static str,
        /// Why, with the verifier's log.
        #[source]
        source: Box<ProgramError>,
    },
    /// A program could not be attached.
    #[error("cannot attach {name} to {target}{}", hint(source))]
    Attach {
        /// The program.
        name: &'static str,
        /// The cgroup or namespace.
        target: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A map could not be read or written.
    #[error("cannot use the kernel's maps")]
    Map(#[from] MapFailure),
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            " (another program may be attached there exclusively: `bpftool cgroup tree` shows it; or CAP_BPF and CAP_NET_ADMIN are missing)"
        }
        _ => "",
    }
}

/// The loaded kernel half.
pub struct Kernel {
    ebpf: Ebpf,
    pins: PathBuf,
    /// Where the hooks are, once they are there.
    cgroup: Option<fs::File>,
    /// The hooks' links, held beside their pins.
    hooks: HashMap<&'static str, OwnedFd>,
    /// The pods' `sk_lookup` links, by the cookies of their namespaces.
    lookups: HashMap<u64, OwnedFd>,
    /// The guards' links, by index of the host's device.
    guards: HashMap<u32, OwnedFd>,
    /// The maps, held beside their pins.
    maps: Vec<(&'static str, OwnedFd)>,
}

impl Kernel {
    /// Loads the object. Maps that are pinned below `bpffs/weft` are taken over with all they hold. `pinned`: what is not
    /// pinned there is; otherwise nothing on the node is touched until [`Kernel::take_hold`].
    pub fn load(bpffs: &Path, pinned: bool) -> Result<(Self, Maps), KernelError> {
        if OBJECT.is_empty() {
            return Err(KernelError::Stub);
        }
        let pins = bpffs.join(paths::ROOT);
        if pinned {
            hold::make_directories(&pins)?;
        }
        let set_retval = u8::from(preflight::has_set_retval());
        let map_pins: Vec<(&str, PathBuf)> =
            map_names::ALL.iter().map(|name| (*name, pins.join(paths::MAPS).join(name))).collect();
        let mut loader = EbpfLoader::new();
        loader.override_global("HAS_SET_RETVAL", &set_retval, true);
        // A line per refusal is for who looks for one; the counters always count.
        let level = if tracing::enabled!(target: "weft::kernel", tracing::Level::DEBUG) {
            Level::Debug
        } else {
            Level::Warn
        };
        let level = level as u8;
        loader.override_global(aya_log::LEVEL, &level, false);
        for (name, path) in map_pins.iter().filter(|_| pinned) {
            loader.map_pin_path(name, path);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| KernelError::Load(Box::new(error)))?;
        match EbpfLogger::init_with_logger(&mut ebpf, ToTracing::default()) {
            Ok(logger) => forward_logs(logger),
            Err(error) => tracing::warn!(%error, "the eBPF programs' own log lines will not be seen"),
        }
        let held = hold::descriptors(&ebpf)?;
        let maps = Maps::take(&mut ebpf)?;
        let found = maps.settings()?.abi;
        if found != 0 && found != Settings::ABI {
            return Err(KernelError::Abi { found, ours: Settings::ABI });
        }
        let mut kernel = Self {
            ebpf,
            pins,
            cgroup: None,
            hooks: HashMap::new(),
            lookups: HashMap::new(),
            guards: HashMap::new(),
            maps: held,
        };
        for name in CGROUP_PROGRAMS.into_iter().chain([programs::SK_LOOKUP, programs::GUARD]) {
            kernel.load_program(name)?;
        }
        Ok((kernel, maps))
    }

    fn program(&mut self, name: &'static str) -> Result<&mut Program, KernelError> {
        self.ebpf.program_mut(name).ok_or(KernelError::Missing(name))
    }

    fn load_program(&mut self, name: &'static str) -> Result<(), KernelError> {
        let refused = |source| KernelError::Program { name, source: Box::new(source) };
        match self.program(name)? {
            Program::CgroupSockAddr(program) => program.load().map_err(refused),
            Program::SockOps(program) => program.load().map_err(refused),
            Program::SkLookup(program) => program.load().map_err(refused),
            Program::SchedClassifier(program) => program.load().map_err(refused),
            _ => Err(KernelError::Missing(name)),
        }
    }

    /// Attaches the cgroup programs at `cgroup`, or puts them in their predecessors' places.
    pub fn attach(&mut self, cgroup: &Path) -> Result<(), KernelError> {
        let directory = fs::File::open(cgroup).map_err(|source| KernelError::Attach {
            name: "hooks",
            target: cgroup.display().to_string(),
            source,
        })?;
        for name in CGROUP_PROGRAMS {
            let pin = self.pins.join(paths::LINKS).join(name);
            let program = self.program(name)?;
            let link = attach_one(program, &pin, &directory).map_err(|source| KernelError::Attach {
                name,
                target: cgroup.display().to_string(),
                source,
            })?;
            self.hooks.insert(name, link);
        }
        self.cgroup = Some(directory);
        Ok(())
    }

    /// Attaches `sk_lookup` to a pod's network namespace, or puts it in its predecessor's place.
    pub fn attach_pod(&mut self, netns: &Netns) -> Result<(), KernelError> {
        let pin = self.pod_pin(netns.cookie());
        let program = self.program(programs::SK_LOOKUP)?;
        let link = attach_one(program, &pin, netns).map_err(|source| KernelError::Attach {
            name: programs::SK_LOOKUP,
            target: format!("network namespace {}", netns.cookie()),
            source,
        })?;
        self.lookups.insert(netns.cookie(), link);
        Ok(())
    }

    /// Detaches `sk_lookup` from a pod's network namespace.
    pub fn detach_pod(&mut self, cookie: u64) -> io::Result<()> {
        self.lookups.remove(&cookie);
        links::remove(&self.pod_pin(cookie))
    }

    /// Whether a namespace has a pinned `sk_lookup`.
    pub fn is_attached(&self, cookie: u64) -> bool {
        self.pod_pin(cookie).exists()
    }

    /// Cookies of all namespaces with a pinned `sk_lookup`.
    pub fn attached_pods(&self) -> Vec<u64> {
        let Ok(entries) = fs::read_dir(self.pins.join(paths::PODS)) else { return Vec::new() };
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    fn pod_pin(&self, cookie: u64) -> PathBuf {
        self.pins.join(paths::PODS).join(cookie.to_string())
    }
}

/// Names of the hooks that are pinned below `bpffs/weft`: what `meshctl status` shows.
pub fn pinned_hooks(bpffs: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(bpffs.join(paths::ROOT).join(paths::LINKS)) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Whether pins can be there at all: a mistyped directory must not look like a node without hooks.
pub fn is_bpffs(path: &Path) -> bool {
    preflight::on_bpffs(path)
}

/// Removes every pin below `bpffs/weft`: all hooks detach, every pod connects as it did before Weft.
pub fn reset(bpffs: &Path) -> io::Result<bool> {
    clear(&bpffs.join(paths::ROOT))
}

fn clear(root: &Path) -> io::Result<bool> {
    // Hooks first, so that none runs over maps that are going.
    for directory in [paths::LINKS, paths::PODS, paths::GUARDS, paths::MAPS] {
        let path = root.join(directory);
        if path.exists() {
            if directory != paths::MAPS {
                detach_all(&path);
            }
            fs::remove_dir_all(path)?;
        }
    }
    if root.exists() { fs::remove_dir(root).map(|()| true) } else { Ok(false) }
}

/// Takes every link that is pinned in a directory off its target: somebody may hold it open.
fn detach_all(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for pin in entries.flatten().map(|entry| entry.path()) {
        // What cannot be detached goes with its pin, unless it is held.
        let _ = links::open(&pin).and_then(|link| links::detach(link.as_fd()));
    }
}

fn attach_one(program: &mut Program, pin: &Path, target: &impl AsFd) -> io::Result<OwnedFd> {
    let fd = program.fd().map_err(io::Error::other)?.try_clone().map_err(io::Error::other)?;
    if let Some(link) = links::replace(pin, fd.as_fd())? {
        return Ok(link);
    }
    let link = match program {
        Program::CgroupSockAddr(program) => attach_addr(program, target),
        Program::SockOps(program) => attach_sockops(program, target),
        Program::SkLookup(program) => attach_lookup(program, target),
        _ => Err(io::Error::other("not a program of this agent's")),
    }?;
    links::pin(link, pin)
}

fn system_error(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}

fn attach_addr(program: &mut CgroupSockAddr, target: &impl AsFd) -> io::Result<FdLink> {
    let id = program.attach(target.as_fd(), CgroupAttachMode::Single).map_err(system_error)?;
    program.take_link(id).map_err(system_error)?.try_into().map_err(io::Error::other)
}

fn attach_sockops(program: &mut SockOps, target: &impl AsFd) -> io::Result<FdLink> {
    let id = program.attach(target.as_fd(), CgroupAttachMode::Single).map_err(system_error)?;
    program.take_link(id).map_err(system_error)?.try_into().map_err(io::Error::other)
}

fn attach_lookup(program: &mut SkLookup, target: &impl AsFd) -> io::Result<FdLink> {
    let id = program.attach(target.as_fd()).map_err(system_error)?;
    program.take_link(id).map(FdLink::from).map_err(system_error)
}

/// Hands the programs' log lines to the agent's log, on a task of the running runtime.
fn forward_logs(logger: EbpfLogger<ToTracing>) {
    tokio::spawn(async move {
        // SAFETY: the logger owns the ring buffer's map and answers with that one descriptor until it is dropped, which
        // is when the registration is.
        let ring = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
        let mut ring = match ring {
            Ok(ring) => ring,
            Err(error) => return tracing::warn!(%error, "the eBPF programs' own log lines will not be seen"),
        };
        while let Ok(mut ready) = ring.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
}

/// Turns a record of the programs into an event of the agent's.
#[derive(Default)]
struct ToTracing {
    /// Warnings come once a connection: there is one line a second, with how many there were.
    warnings: Quiet,
}

impl log::Log for ToTracing {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        match record.level() {
            log::Level::Error => tracing::error!(target: "weft::kernel", "{}", record.args()),
            log::Level::Warn => {
                if let Some(times) = self.warnings.due() {
                    tracing::warn!(target: "weft::kernel", times, "{}", record.args());
                }
            }
            log::Level::Info => tracing::info!(target: "weft::kernel", "{}", record.args()),
            log::Level::Debug => tracing::debug!(target: "weft::kernel", "{}", record.args()),
            log::Level::Trace => tracing::trace!(target: "weft::kernel", "{}", record.args()),
        }
    }

    fn flush(&self) {}
}
