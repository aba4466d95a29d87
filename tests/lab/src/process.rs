//! Running programs inside a pod, or on a node beside it.
//!
//! ```text
//!   thread: setns(network) ─▶ clone3(CLONE_INTO_CGROUP) ─▶ child: stdio, user ─▶ execve
//!                             └ in cgroup and namespace from the first instruction
//! ```
//!
//! One way for everything, so that also a program that connects as its first instruction is where kubelet would have it.
//! Programs get a fresh, small environment (no proxy settings of the machine) and no open file but the three.

mod clone;
mod handle;

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::User;

pub(crate) use clone::{Child, clone_into};
pub use handle::{Output, Process};

use crate::binaries;
use crate::cgroup::Cgroup;
use crate::signals;

/// How long [`Command::run`] waits unless told otherwise.
const RUN_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a program is to run.
#[derive(Debug)]
pub(crate) struct Site {
    /// Its cgroup; `None`: that of the test process.
    pub(crate) cgroup: Option<Cgroup>,
    /// Its network namespace.
    pub(crate) netns: Option<OwnedFd>,
    /// For messages and names of log files.
    pub(crate) name: String,
    /// Where its output goes.
    pub(crate) logs: PathBuf,
    /// How a person gets there, for failure messages.
    pub(crate) enter: String,
}

/// A program to run somewhere in the lab.
#[derive(Debug)]
pub struct Command {
    site: Site,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    directory: PathBuf,
    user: Option<String>,
    input: Vec<u8>,
    timeout: Duration,
    log: Option<String>,
}

/// What the child needs, all made before it is: between `clone3` and `execve` it may not allocate.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) program: CString,
    pub(crate) arguments: Vec<CString>,
    pub(crate) environment: Vec<CString>,
    pub(crate) directory: CString,
    pub(crate) ids: Option<(u32, u32)>,
    pub(crate) stdio: [OwnedFd; 3],
    pub(crate) netns: Option<OwnedFd>,
    pub(crate) cgroup: Option<OwnedFd>,
    pub(crate) open_files: Option<(u64, u64)>,
}

impl Command {
    pub(crate) fn new(site: Site, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        let environment = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/root"),
            ("LANG", "C.UTF-8"),
            ("RUST_BACKTRACE", "1"),
        ];
        Self {
            site,
            arguments: arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect(),
            environment: environment.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
            directory: "/".into(),
            user: None,
            input: Vec::new(),
            timeout: RUN_TIMEOUT,
            log: None,
        }
    }

    /// Sets a variable of the environment, which is otherwise `PATH`, `HOME`, `LANG` and `RUST_BACKTRACE` alone.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.insert(key.as_ref().into(), value.as_ref().into());
        self
    }

    /// Runs as this user of the machine, with its primary group alone.
    #[must_use]
    pub fn user(mut self, name: &str) -> Self {
        self.user = Some(name.to_owned());
        self
    }

    /// Working directory; `/` otherwise.
    #[must_use]
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = path.into();
        self
    }

    /// Standard input; empty otherwise.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// How long [`Command::run`] waits for the end.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Appends what the program writes to `<name>.log` in the lab's logs, instead of to files of its own.
    #[must_use]
    pub(crate) fn log(mut self, name: &str) -> Self {
        self.log = Some(name.to_owned());
        self
    }

    /// Runs to the end. A program that fails is an [`Output`] too; an error means that it could not be started or did not
    /// end in time.
    pub fn run(self) -> Result<Output> {
        let timeout = self.timeout;
        self.spawn()?.wait(timeout)
    }

    /// Starts in the background. Dropping the handle kills the program and its process group.
    pub fn spawn(self) -> Result<Process> {
        let what = self.describe();
        self.start().with_context(|| format!("start {what}"))
    }

    fn start(self) -> Result<Process> {
        if signals::interrupted() {
            bail!("the lab is being taken away");
        }
        let what = self.describe();
        let (out, err, paths) = self.outputs()?;
        let prepared = self.prepare(out, err)?;
        let child = clone::spawn(&prepared)?;
        Ok(Process::new(child, what, paths, self.site.enter))
    }

    fn describe(&self) -> String {
        let words: Vec<_> = self.arguments.iter().map(|word| word.to_string_lossy()).collect();
        format!("`{}` in {}", words.join(" "), self.site.name)
    }

    /// Files for the two output streams. Files and not pipes: whoever holds them, nobody ever waits for a reader.
    fn outputs(&self) -> Result<(File, File, [PathBuf; 2])> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        if let Some(name) = &self.log {
            let path = self.site.logs.join(format!("{name}.log"));
            let file = File::options().create(true).append(true).open(&path)?;
            return Ok((file.try_clone()?, file, [path.clone(), path]));
        }
        let program = self.arguments.first().map(|name| Path::new(name).file_name().unwrap_or(name));
        let program = program.unwrap_or_default().to_string_lossy().into_owned();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let base = self.site.name.replace('/', "-");
        let path = |stream| self.site.logs.join(format!("{base}-{number}-{program}.{stream}"));
        let (out, err) = (path("out"), path("err"));
        let open = |path: &Path| {
            File::options()
                .create_new(true)
                .append(true)
                .open(path)
                .with_context(|| format!("make {}", path.display()))
        };
        Ok((open(&out)?, open(&err)?, [out, err]))
    }

    fn prepare(&self, out: File, err: File) -> Result<Prepared> {
        let name = self.arguments.first().ok_or_else(|| anyhow!("a command has at least its program"))?;
        let program = find_program(name)?;
        let ids = match &self.user {
            None => None,
            Some(name) => {
                let user =
                    User::from_name(name)?.with_context(|| format!("no user {name} on this machine"))?;
                Some((user.uid.as_raw(), user.gid.as_raw()))
            }
        };
        let environment = self.environment.iter().map(|(key, value)| {
            let mut pair = key.clone();
            pair.push("=");
            pair.push(value);
            c_string(pair)
        });
        Ok(Prepared {
            program: c_string(program.into_os_string())?,
            arguments: self.arguments.iter().cloned().map(c_string).collect::<Result<_>>()?,
            environment: environment.collect::<Result<_>>()?,
            directory: c_string(self.directory.clone().into_os_string())?,
            ids,
            stdio: [input(&self.input)?, out.into(), err.into()],
            netns: self.site.netns.as_ref().map(OwnedFd::try_clone).transpose()?,
            cgroup: self.site.cgroup.as_ref().map(Cgroup::open).transpose()?,
            open_files: crate::preflight::open_files(),
        })
    }
}

/// The workspace's own `weft-lab-peer`, or a program of the system.
fn find_program(name: &OsStr) -> Result<PathBuf> {
    let text = name.to_string_lossy();
    if text == "weft-lab-peer" {
        return binaries::binary(&text);
    }
    match binaries::system(&text) {
        Some(path) => Ok(path),
        None => bail!("the program {text} is not installed: run `cargo xtask setup`"),
    }
}

fn c_string(text: OsString) -> Result<CString> {
    CString::new(text.into_vec()).context("a NUL byte in an argument")
}

/// A file that reads as `bytes`: needs no writer that could block.
fn input(bytes: &[u8]) -> Result<OwnedFd> {
    if bytes.is_empty() {
        return Ok(File::open("/dev/null")?.into());
    }
    // SAFETY: the name is a NUL-terminated literal; the result is checked before it becomes an OwnedFd, which alone owns it.
    let fd = unsafe {
        let fd = libc::memfd_create(c"input".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("make a file for standard input");
        }
        OwnedFd::from_raw_fd(fd)
    };
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file.into())
}

/// The last `lines` lines of a file, read from its end.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    const SPAN: u64 = 64 << 10;
    let Ok(file) = File::open(path) else { return String::new() };
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = vec![0; SPAN.min(length) as usize];
    if file.read_exact_at(&mut bytes, length.saturating_sub(SPAN)).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Everything in a file; nothing if it cannot be read.
fn read_all(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        // A short read is what was there.
        let _ = file.read_to_end(&mut bytes);
    }
    bytes
}

impl Prepared {
    /// Descriptors that must end as 0, 1 and 2.
    pub(crate) fn stdio_fds(&self) -> [i32; 3] {
        [0, 1, 2].map(|index: usize| self.stdio[index].as_fd().as_raw_fd())
    }
}
