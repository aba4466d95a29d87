//! A real Prometheus for a test: its process. Its configuration and its query API are the lab's ([`lab::prometheus`]), whose
//! demo runs one too.
//!
//! ```text
//! Config ─▶ directory (prometheus.yml, data, log) ─▶ process, in the namespace that was named ─▶ ready
//!                                 Client ◀── 127.0.0.1:PORT of that namespace ──┘
//! ```
//!
//! Invariants: it listens on loopback alone; it ends when its handle is dropped, and with the thread that started it
//! (the kernel kills it), so keep the handle on that thread. Not here: what is scraped.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Deref;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use lab::prometheus::inside;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

pub use lab::prometheus::{Client, Config, Sample, Target};

/// How long it may take until it answers. It writes and syncs files first, on a machine that tests share.
const START: Duration = Duration::from_secs(60);
/// How long it may take to end by itself.
const END: Duration = Duration::from_secs(10);

/// A Prometheus that runs.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    client: Client,
    directory: TempDir,
}

impl Deref for Prometheus {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Prometheus {
    /// Starts one and waits until it answers.
    pub fn start(config: &Config) -> Result<Self> {
        let program = crate::program("prometheus")
            .context("the program prometheus is not installed: run `cargo xtask setup`")?;
        let directory = tempfile::Builder::new().prefix("weft-prometheus-").tempdir()?;
        let file = directory.path().join("prometheus.yml");
        fs::write(&file, config.yaml()?)?;
        let netns = config.netns.clone();
        let address = inside(netns.as_deref(), || -> Result<SocketAddr> {
            Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
        })??;
        let log = File::create(directory.path().join("log"))?;
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(["--storage.tsdb.retention.time=1d", "--log.level=warn"])
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let namespace = netns.as_ref().map(File::open).transpose().context("open the network namespace")?;
        // SAFETY: between fork and exec it makes two system calls on numbers that were taken before, and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                if let Some(namespace) = &namespace
                    && libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) != 0
                {
                    return Err(std::io::Error::last_os_error());
                }
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().context("start prometheus")?;
        let mut server = Self { child, client: Client::new(address, netns), directory };
        let started = lab::eventually(START, || match server.child.try_wait() {
            Ok(None) => server.client.ready().map(Ok).map_err(|error| format!("{error:#}")),
            Ok(Some(status)) => Ok(Err(format!("it ended at once: {status}"))),
            Err(error) => Ok(Err(error.to_string())),
        });
        match started.with_context(|| server.log())? {
            Ok(_) => Ok(server),
            Err(why) => Err(anyhow!("prometheus does not start: {why}\n{}", server.log())),
        }
    }

    /// Its process, to be measured.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).map(Pid::from_raw);
        let asked = pid.is_ok_and(|pid| kill(pid, Signal::SIGTERM).is_ok());
        let start = Instant::now();
        while asked && start.elapsed() < END {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
