//! The controller's process, and what it uses.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mesh_xds::ClientConfig;

use super::shape::Shape;
use crate::cpu::ticks_per_second;

/// How long it may take to read its objects.
const START: Duration = Duration::from_secs(120);
/// Agents that there may be.
pub const AGENTS: u32 = 100;

/// A controller that runs, or will again.
#[derive(Debug)]
pub struct Controller {
    place: PathBuf,
    flags: Vec<String>,
    listen: SocketAddr,
    child: Option<Child>,
}

/// What a process has in memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Now.
    pub resident: u64,
    /// At most, since the start or [`Controller::forget_peak`].
    pub peak: u64,
}

impl Controller {
    /// Makes tokens and chooses a port; starts nothing.
    pub fn new(place: &Path, home: Vec<String>) -> Result<Self> {
        let mut lines = String::new();
        for number in 0..AGENTS {
            let (node, token) = (Shape::node(number), format!("token-{number}"));
            lines.push_str(&format!("{node} {token}\n"));
            private(&place.join(&token), &token)?;
        }
        private(&place.join("tokens"), &lines)?;
        // Free now; the controller takes it in a moment.
        let listen = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let at = |name: &str| place.join(name).display().to_string();
        let mut flags = vec![
            format!("--listen={listen}"),
            format!("--state-dir={}", at("state")),
            format!("--agent-tokens={}", at("tokens")),
            format!("--admin-socket={}", at("admin.sock")),
            "--metrics-listen=127.0.0.1:0".into(),
        ];
        flags.extend(home);
        Ok(Self { place: place.into(), flags, listen, child: None })
    }

    /// Starts it; how long until it listened.
    pub fn start(&mut self) -> Result<Duration> {
        let program = lab::binary("mesh-controller")?;
        let log = File::options().create(true).append(true).open(self.place.join("log"))?;
        let start = Instant::now();
        let child = Command::new(&program)
            .args(&self.flags)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let child = self.child.insert(child);
        while TcpStream::connect(self.listen).is_err() {
            if child.try_wait()?.is_some() || start.elapsed() > START {
                bail!("the controller does not start: {}", fs::read_to_string(self.place.join("log"))?);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(start.elapsed())
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Gone already is just as well.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What an agent of a node is started with.
    pub fn agent(&self, number: u32) -> ClientConfig {
        let token = self.place.join(format!("token-{number}"));
        ClientConfig::new(
            self.listen.to_string(),
            self.place.join("state/root.pem"),
            token,
            Shape::node(number),
        )
    }

    /// Its memory.
    pub fn memory(&self) -> Result<Memory> {
        memory_of(self.pid()?)
    }

    /// From here on the peak is counted anew.
    pub fn forget_peak(&self) -> Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.pid()?), "5").context("forget the controller's peak")
    }

    /// CPU time so far.
    pub fn cpu(&self) -> Result<Duration> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        let fields = text.rsplit_once(')').map(|(_, rest)| rest.split_ascii_whitespace());
        // utime and stime are the 14th and 15th of all, and the name in parentheses is the second (proc_pid_stat(5)).
        let ticks = fields.and_then(|fields| {
            fields.skip(11).take(2).map(|field| field.parse::<f64>().ok()).sum::<Option<f64>>()
        });
        Ok(Duration::from_secs_f64(ticks.context("no CPU time in stat")? / ticks_per_second()))
    }

    fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("the controller does not run")?.id())
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Memory of a process.
pub fn memory_of(pid: u32) -> Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        number.map(|number| number * 1024).with_context(|| format!("no {name} in the status of {pid}"))
    };
    Ok(Memory { resident: bytes("VmRSS:")?, peak: bytes("VmHWM:")? })
}

fn private(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
