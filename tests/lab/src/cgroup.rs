//! Control groups of the unified hierarchy, also where version 1 controllers stand beside it.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Where cgroup2 is mounted (`/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` beside version 1).
pub fn mount_point() -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    parse_mountinfo(&table).context("cgroup2 is not mounted (mount -t cgroup2 none /sys/fs/cgroup/unified)")
}

fn parse_mountinfo(table: &str) -> Option<PathBuf> {
    table.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        (back.split(' ').next() == Some("cgroup2")).then_some(())?;
        front.split(' ').nth(4).map(PathBuf::from)
    })
}

/// One control group that the lab made.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes the group and its parents.
    pub fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("make cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// A group that may or may not be there.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A group below.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::create(self.path.join(name))
    }

    /// The directory opened, for `CLONE_INTO_CGROUP`.
    pub fn open(&self) -> Result<OwnedFd> {
        let file = File::open(&self.path).with_context(|| format!("open cgroup {}", self.path.display()))?;
        Ok(file.into())
    }

    /// Its id: what `bpf_get_current_cgroup_id` gives for the processes in it.
    pub fn id(&self) -> io::Result<u64> {
        use std::os::unix::fs::MetadataExt;
        Ok(fs::metadata(&self.path)?.ino())
    }

    /// Processes in the group itself, not below.
    pub fn pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Kills every process in and below the group and waits until none is left. Again and again: somebody who is about to
    /// be told may start one more behind the first.
    pub fn kill(&self, deadline: Duration) -> Result<()> {
        let context = || format!("kill cgroup {}", self.path.display());
        let start = Instant::now();
        loop {
            match fs::write(self.path.join("cgroup.kill"), "1") {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                // The group was removed between the open and the write.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
                other => other.with_context(context)?,
            }
            if !self.is_populated() {
                return Ok(());
            }
            if start.elapsed() > deadline {
                bail!("{}: processes are left after {deadline:?}", context());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether a live process is in or below the group.
    pub fn is_populated(&self) -> bool {
        fs::read_to_string(self.path.join("cgroup.events")).is_ok_and(|text| text.contains("populated 1"))
    }

    /// Removes the group and all below; they must be empty of processes.
    pub fn remove(&self) -> Result<()> {
        remove_below(&self.path).with_context(|| format!("remove cgroup {}", self.path.display()))
    }
}

fn remove_below(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path())?;
        }
    }
    let start = Instant::now();
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A process that was just killed leaves its group a moment after it left the list.
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && start.elapsed() < Duration::from_secs(5) =>
            {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
