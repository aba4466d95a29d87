//! Real programs for pods, each with a configuration of its own in the lab's directory, started and waited for until it
//! listens. They end with their handle or with the pod.

mod databases;
mod nginx;

use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::User;

pub use databases::{Postgres, mariadb, postgres, redis};
pub use nginx::{Nginx, nginx};

use crate::binaries;
use crate::pod::Pod;
use crate::process::{Command, Process};

/// How long a program may take until it listens. Databases create their files first, on a machine that tests share.
const START: Duration = Duration::from_secs(60);

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    /// The program.
    pub process: Process,
    /// Its port.
    pub port: u16,
}

/// Starts a command and waits until it listens; if it ends before, the error shows what it wrote.
pub fn start(pod: &Pod, command: Command, port: u16) -> Result<Server> {
    let mut process = command.spawn()?;
    let outcome = crate::eventually(START, || {
        if !process.is_running() {
            return Ok(Err(process.failure_report()));
        }
        let ports = pod.listening_ports().map_err(|error| format!("{error:#}"))?;
        if ports.contains(&port) { Ok(Ok(())) } else { Err(format!("{} listens on {ports:?}", pod.key())) }
    });
    match outcome.with_context(|| process.failure_report())? {
        Ok(()) => Ok(Server { process, port }),
        Err(report) => Err(anyhow::anyhow!("it ended at once: {report}")),
    }
}

/// A server of `weft-lab-peer` (`echo`, `banner`, `print-peer`, `sink`, `source`, `half-close-server`) with further
/// arguments.
pub fn peer(pod: &Pod, kind: &str, port: u16, more: &[&str]) -> Result<Server> {
    let number = port.to_string();
    let arguments = ["weft-lab-peer", kind, "--listen", &number];
    start(pod, pod.command(arguments.iter().chain(more))?, port)
}

/// OpenSSH's server with a host key of its own; a program that speaks first.
pub fn sshd(pod: &Pod, port: u16) -> Result<Server> {
    let directory = pod.directory("sshd")?;
    let (key, file) = (directory.join("key"), directory.join("config"));
    if !key.exists() {
        pod.exec(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", text(&key)?])?.ok()?;
    }
    // Where the unprivileged half is confined; Debian makes it at boot.
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create("/run/sshd").context("make /run/sshd")?;
    let config = format!("Port {port}\nHostKey {}\nPidFile none\nUsePAM no\nUseDNS no\n", key.display());
    std::fs::write(&file, config)?;
    let program = binaries::system("sshd").context("sshd is not installed: run `cargo xtask setup`")?;
    start(pod, pod.command([text(&program)?, "-D", "-e", "-f", text(&file)?])?, port)
}

/// A directory that belongs to a user of the machine.
pub(crate) fn owned_directory(pod: &Pod, name: &str, user: &str) -> Result<PathBuf> {
    let directory = pod.directory(name)?;
    let user = User::from_name(user)?.with_context(|| format!("no user {user}: run `cargo xtask setup`"))?;
    chown(&directory, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    Ok(directory)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
