//! Where the things of one lab are: every path and name that carries its id.
//!
//! All names are functions of the id alone, so that a guard or a sweep that knows nothing else finds everything.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{cgroup, random};

/// Directory that holds the labs' own directories. Fixed, not `TMPDIR`: a sweep must find every lab of the machine, and
/// paths of unix sockets are short.
const BASE: &str = "/tmp";
/// Prefix of the lab's directory and of its cgroup.
const DIR_PREFIX: &str = "weft-lab-";
/// Prefix of its network namespaces and of its directories in bpffs.
const NAME_PREFIX: &str = "wl";
/// Where named network namespaces are, as `ip netns` has it.
pub(crate) const NETNS_DIR: &str = "/run/netns";
/// Where the BPF file system is mounted.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// The id of a lab, and with it where its things are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Six hex digits.
    id: String,
}

impl Place {
    /// Makes the directory of a new lab. It appears together with the record of its owner (this process), so a sweep
    /// never sees it without.
    pub(crate) fn claim() -> Result<Self> {
        let place = Self { id: random::hex(3)? };
        let draft = Path::new(BASE).join(format!(".{DIR_PREFIX}{}.new", place.id));
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&draft)
            .with_context(|| format!("mkdir {}", draft.display()))?;
        fs::write(draft.join("owner"), Owner::this_process()?.to_string())?;
        fs::rename(&draft, place.dir()).with_context(|| format!("rename to {}", place.dir().display()))?;
        for sub in ["objects", "drafts", "logs", "captures"] {
            fs::create_dir(place.dir().join(sub))?;
        }
        Ok(place)
    }

    /// The place of a lab by its id; nothing is made.
    pub fn of(id: &str) -> Self {
        Self { id: id.to_owned() }
    }

    /// The lab's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The lab's directory: objects, logs, captures, state and sockets.
    pub fn dir(&self) -> PathBuf {
        Path::new(BASE).join(format!("{DIR_PREFIX}{}", self.id))
    }

    /// Directory of the Kubernetes-shaped objects, which the controller watches.
    pub fn objects(&self) -> PathBuf {
        self.dir().join("objects")
    }

    /// Logs of everything that was started.
    pub fn logs(&self) -> PathBuf {
        self.dir().join("logs")
    }

    /// A node's own directory.
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.dir().join(node)
    }

    /// Name of a node's network namespace, or of the one between nodes.
    pub fn netns(&self, node: &str) -> String {
        format!("{NAME_PREFIX}{}-{node}", self.id)
    }

    /// Start of the names of all of the lab's network namespaces and bpffs directories.
    pub(crate) fn name_prefix(&self) -> String {
        format!("{NAME_PREFIX}{}-", self.id)
    }

    /// A node's directory in bpffs, the `--bpffs` of its agent.
    pub fn bpffs(&self, node: &str) -> PathBuf {
        Path::new(BPFFS).join(self.netns(node))
    }

    /// The cgroup that holds every process of the lab.
    pub fn cgroup(&self) -> Result<PathBuf> {
        Ok(cgroup::mount_point()?.join(format!("{DIR_PREFIX}{}", self.id)))
    }

    /// Writes a file so that whoever watches sees it whole or not at all.
    pub(crate) fn publish(&self, path: &Path, content: &str) -> Result<()> {
        let name = path.file_name().context("a file to publish has a name")?;
        let draft = self.dir().join("drafts").join(name);
        let context = || format!("write {}", path.display());
        fs::write(&draft, content).with_context(context)?;
        fs::rename(&draft, path).with_context(context)
    }

    /// Writes a file that only root may read.
    pub(crate) fn write_secret(path: &Path, content: &str) -> io::Result<()> {
        let mut file =
            fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
        file.write_all(content.as_bytes())
    }

    /// Who owns the lab, if its directory is there and says so.
    pub fn owner(&self) -> Option<Owner> {
        Owner::parse(&fs::read_to_string(self.dir().join("owner")).ok()?)
    }

    /// Leaves the lab up when its owner ends: the guard and sweeps keep their hands off.
    pub fn detach(&self) -> io::Result<()> {
        fs::write(self.dir().join("detached"), "")
    }

    /// Whether the lab was left up on purpose.
    pub fn is_detached(&self) -> bool {
        self.dir().join("detached").exists()
    }

    /// Every lab of which anything is left on this machine, from all four kinds of traces.
    pub fn all() -> Vec<Place> {
        let mut ids = std::collections::BTreeSet::new();
        let directories = [Some(PathBuf::from(BASE)), cgroup::mount_point().ok()];
        for directory in directories.into_iter().flatten() {
            ids.extend(names(&directory).iter().filter_map(|name| id_in(name.strip_prefix(DIR_PREFIX)?)));
        }
        for directory in [NETNS_DIR, BPFFS] {
            ids.extend(names(Path::new(directory)).iter().filter_map(|name| {
                let (id, _) = name.strip_prefix(NAME_PREFIX)?.split_once('-')?;
                id_in(id)
            }));
        }
        ids.into_iter().map(|id| Place { id }).collect()
    }
}

/// Names in a directory; none if it cannot be read.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn id_in(text: &str) -> Option<String> {
    (text.len() == 6 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| text.to_owned())
}

/// A process for good: its pid, and its start time against reuse of the pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pid: u32,
    /// Clock ticks since boot (`proc_pid_stat(5)`, field 22).
    start: u64,
}

impl Owner {
    fn this_process() -> Result<Self> {
        let pid = std::process::id();
        let start = start_time(pid).context("read the start time of this process")?;
        Ok(Self { pid, start })
    }

    fn parse(text: &str) -> Option<Self> {
        let (pid, start) = text.trim().split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, start: start.parse().ok()? })
    }

    /// Whether that very process is alive.
    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.start)
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.pid, self.start)
    }
}

/// Start time of a live process; a zombie has none.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, with whatever characters it likes.
    let rest = stat.rsplit_once(") ")?.1;
    let mut fields = rest.split(' ');
    (fields.next()? != "Z").then_some(())?;
    fields.nth(18)?.parse().ok()
}
