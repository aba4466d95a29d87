//! The mesh in the lab: one controller and an agent per node, real processes in pods of their own below the same
//! `kubepods` as everybody's, as a StatefulSet's and a DaemonSet's would be.
//!
//! A restarted process is a new container of the same pod: same network namespace, new cgroup.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::lab::{Lab, PATIENCE};
use crate::place::Place;
use crate::pod::Pod;
use crate::process::{Output, Process};
use crate::{admin, binaries, eventually, random};

/// Kubernetes namespace of the mesh's own pods.
pub const SYSTEM_NAMESPACE: &str = "weft-system";
/// Trust domain of a lab that asks for no other.
pub const TRUST_DOMAIN: &str = "lab.weft.dev";
const CONTROLLER_PORT: u16 = 15010;
pub(crate) const METRICS_PORT: u16 = 15020;

/// A program of the mesh in its pod: started, killed and started again.
#[derive(Debug)]
struct Daemon {
    pod: Arc<Pod>,
    /// Program and arguments.
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    log_name: String,
    admin_socket: PathBuf,
    process: Mutex<Option<Process>>,
}

/// How a program of the mesh is started that the lab does not start by itself.
#[derive(Debug)]
pub struct Program {
    /// Its pod; a new container of it each time.
    pub pod: Arc<Pod>,
    /// Name of its log.
    pub log: String,
    /// Program and arguments.
    pub arguments: Vec<OsString>,
    /// Beside what every program gets.
    pub environment: Vec<(OsString, OsString)>,
    /// Where it listens for `meshctl`.
    pub admin_socket: PathBuf,
}

/// A controller.
#[derive(Debug)]
pub struct Controller {
    daemon: Daemon,
    /// The file that it writes its root to.
    root_cert: Option<PathBuf>,
}

/// The agent of one node.
#[derive(Debug)]
pub struct Agent {
    daemon: Daemon,
    node: String,
    token: PathBuf,
    state: PathBuf,
    cache: PathBuf,
}

/// Makes the pods, tokens and directories of the mesh; starts nothing.
pub(crate) fn install(lab: &mut Lab, trust_domain: &str) -> Result<()> {
    let place = lab.place().clone();
    let controller_pod = lab
        .pod(&format!("{SYSTEM_NAMESPACE}/weft-controller-0"))
        .service_account("weft-controller")
        .start()?;
    let address = SocketAddr::new(controller_pod.v4().into(), CONTROLLER_PORT);
    let (controller, tokens) = Controller::standalone(&place, controller_pod, trust_domain)?;
    let mut agents = Vec::new();
    let mut lines = String::new();
    for node in lab.nodes().to_vec() {
        let pod = lab
            .pod(&format!("{SYSTEM_NAMESPACE}/weft-agent-{}", node.name()))
            .service_account("weft-agent")
            .node(node.name())
            .start()?;
        let token = random::hex(16)?;
        lines.push_str(&format!("{} {token}\n", node.name()));
        agents.push(Agent::standalone(&place, pod, &controller, address, &token)?);
    }
    Place::write_secret(&tokens, &lines)?;
    lab.install_mesh(vec![controller], agents);
    Ok(())
}

/// Starts the controller, then the agents, and waits for all of them.
pub(crate) fn start_all(lab: &Lab) -> Result<()> {
    lab.controller().start()?;
    for agent in lab.agents() {
        agent.launch()?;
    }
    for agent in lab.agents() {
        agent.await_ready()?;
    }
    Ok(())
}

impl Daemon {
    fn new(program: Program) -> Self {
        let Program { pod, log, arguments, environment, admin_socket } = program;
        Self { pod, arguments, environment, log_name: log, admin_socket, process: Mutex::new(None) }
    }

    fn launch(&self, under: &[&str]) -> Result<()> {
        let mut process = self.process();
        if process.as_mut().is_some_and(Process::is_running) {
            bail!("{} runs already", self.log_name);
        }
        let level = std::env::var("WEFT_LAB_LOG").unwrap_or_else(|_| "info".into());
        let words = under.iter().map(OsString::from).chain(self.arguments.iter().cloned());
        let command = self.pod.command_in_new_container(words)?;
        let command = self.environment.iter().fold(command, |command, (key, value)| command.env(key, value));
        *process = Some(command.env("RUST_LOG", level).log(&self.log_name).spawn()?);
        Ok(())
    }

    fn kill(&self) {
        // Its Drop kills and waits.
        self.process().take();
    }

    fn stop(&self, timeout: Duration) -> Result<Output> {
        let process = self.process().take();
        process.with_context(|| format!("{} does not run", self.log_name))?.stop(timeout)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        match &*self.process() {
            Some(process) => process.signal(signal),
            None => bail!("{} does not run", self.log_name),
        }
    }

    fn pid(&self) -> Option<i32> {
        self.process().as_ref().map(Process::pid)
    }

    /// Why it is pointless to wait for it, if it is.
    fn dead(&self) -> Option<String> {
        let mut process = self.process();
        let Some(process) = process.as_mut() else { return Some("it does not run".to_owned()) };
        if process.is_running() {
            return None;
        }
        Some(format!("it has ended: {}", process.failure_report()))
    }

    /// Asks until `probe` is content, and gives up at once when the process has ended.
    fn await_that(&self, mut probe: impl FnMut() -> Result<(), String>) -> Result<()> {
        let outcome = eventually(PATIENCE, || match self.dead() {
            Some(reason) => Ok(Err(reason)),
            None => probe().map(Ok),
        });
        match outcome.with_context(|| format!("wait for {}", self.log_name))? {
            Ok(()) => Ok(()),
            Err(reason) => bail!("wait for {}: {reason}", self.log_name),
        }
    }

    fn json(&self, path: &str) -> Result<Value> {
        let body = admin::get_unix(&self.admin_socket, path)?;
        serde_json::from_slice(&body).with_context(|| format!("{path} of {} is no JSON", self.log_name))
    }

    fn rows(&self, path: &str) -> Result<Vec<Value>> {
        match self.json(path)? {
            Value::Array(rows) => Ok(rows),
            other => bail!("{path} of {} is no list: {other}", self.log_name),
        }
    }

    fn metrics(&self) -> Result<String> {
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), METRICS_PORT);
        let body = self.pod.netns_thread(|| admin::get_tcp(address, "/metrics"))??;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Controller {
    /// One that is started in another way, and writes no root to a file.
    pub fn of(mut program: Program) -> Self {
        program.arguments = with_capabilities("-all", program.arguments);
        Self { daemon: Daemon::new(program), root_cert: None }
    }

    /// The standalone one, and its file of tokens.
    fn standalone(place: &Place, pod: Arc<Pod>, trust_domain: &str) -> Result<(Self, PathBuf)> {
        let directory = place.dir().join("controller");
        let state = directory.join("state");
        std::fs::create_dir_all(&state)?;
        let (socket, tokens) = (directory.join("admin.sock"), directory.join("tokens"));
        let arguments = arguments(
            &binaries::binary("mesh-controller")?,
            &[
                ("--dir", place.objects().into()),
                ("--listen", format!("[::]:{CONTROLLER_PORT}").into()),
                ("--trust-domain", trust_domain.into()),
                ("--state-dir", state.clone().into()),
                ("--agent-tokens", tokens.clone().into()),
                ("--admin-socket", socket.clone().into()),
                ("--metrics-listen", format!("[::]:{METRICS_PORT}").into()),
            ],
        );
        let root_cert = state.join("root.pem");
        let (log, environment) = ("controller".to_owned(), Vec::new());
        let arguments = with_capabilities("-all", arguments);
        let program = Program { pod, log, arguments, environment, admin_socket: socket };
        Ok((Self { daemon: Daemon::new(program), root_cert: Some(root_cert) }, tokens))
    }

    /// Its pod.
    pub fn pod(&self) -> &Arc<Pod> {
        &self.daemon.pod
    }

    /// Its pid, if it was started.
    pub fn pid(&self) -> Option<i32> {
        self.daemon.pid()
    }

    /// Its admin socket.
    pub fn admin_socket(&self) -> &Path {
        &self.daemon.admin_socket
    }

    /// The root certificate that agents get out of band; empty if it is not in a file.
    pub fn root_cert(&self) -> PathBuf {
        self.root_cert.clone().unwrap_or_default()
    }

    pub(crate) fn log_name(&self) -> String {
        self.daemon.log_name.clone()
    }

    /// Starts it and returns at once.
    pub fn launch(&self) -> Result<()> {
        self.daemon.launch(&[])
    }

    /// The same under a program that executes what it is given: `env NAME=VALUE`.
    pub fn launch_under(&self, program: &[&str]) -> Result<()> {
        self.daemon.launch(program)
    }

    /// Starts it and waits until it listens, and has written its root if it is one that writes it to a file.
    pub fn start(&self) -> Result<()> {
        self.daemon.launch(&[])?;
        self.await_listening()
    }

    /// Waits until it listens.
    pub fn await_listening(&self) -> Result<()> {
        self.daemon.await_that(|| {
            if self.root_cert.as_ref().is_some_and(|path| !path.exists()) {
                return Err(format!("{} is not there", self.root_cert().display()));
            }
            let ports = self.pod().listening_ports().map_err(|error| format!("{error:#}"))?;
            if ports.contains(&CONTROLLER_PORT) { Ok(()) } else { Err(format!("it listens on {ports:?}")) }
        })
    }

    /// Kills it with SIGKILL.
    pub fn kill(&self) {
        self.daemon.kill();
    }

    /// Asks it to end with SIGTERM.
    pub fn stop(&self, timeout: Duration) -> Result<Output> {
        self.daemon.stop(timeout)
    }

    /// Kills it and starts it again.
    pub fn restart(&self) -> Result<()> {
        self.kill();
        self.start()
    }

    /// Its metrics.
    pub fn metrics(&self) -> Result<String> {
        self.daemon.metrics()
    }

    /// A path of its admin socket.
    pub fn admin(&self, path: &str) -> Result<Value> {
        self.daemon.json(path)
    }
}

impl Agent {
    /// One that is started in another way, with its token and its state where its arguments say.
    pub fn of(mut program: Program, token: PathBuf, state: PathBuf) -> Self {
        program.arguments =
            with_capabilities("-all,+bpf,+net_admin,+sys_admin,+sys_ptrace", program.arguments);
        let node = program.pod.node().name().to_owned();
        // Beside each other, as on a node.
        let cache = state.with_file_name("agent-cache");
        Self { daemon: Daemon::new(program), node, token, state, cache }
    }

    fn standalone(
        place: &Place,
        pod: Arc<Pod>,
        controller: &Controller,
        address: SocketAddr,
        secret: &str,
    ) -> Result<Self> {
        let node = pod.node().clone();
        let (token, state) = (node.directory().join("token"), node.directory().join("agent-state"));
        let (socket, cache) = (node.directory().join("agent.sock"), node.directory().join("agent-cache"));
        Place::write_secret(&token, secret)?;
        std::fs::create_dir_all(place.bpffs(node.name())).context("make the agent's directory in bpffs")?;
        let arguments = arguments(
            &binaries::binary("mesh-agent")?,
            &[
                ("--node", node.name().into()),
                ("--controller", address.to_string().into()),
                ("--token-file", token.clone().into()),
                ("--root-cert", controller.root_cert().into()),
                ("--state-dir", state.clone().into()),
                ("--cache-dir", cache.clone().into()),
                ("--cgroup", node.cgroup().path().into()),
                ("--bpffs", place.bpffs(node.name()).into()),
                ("--host-netns", node.namespace().path().into()),
                ("--pod-logs", node.pod_logs().into()),
                ("--admin-socket", socket.clone().into()),
            ],
        );
        let (log, environment) = (format!("agent-{}", node.name()), Vec::new());
        Ok(Self::of(Program { pod, log, arguments, environment, admin_socket: socket }, token, state))
    }

    /// The node it serves.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Its pod.
    pub fn pod(&self) -> &Arc<Pod> {
        &self.daemon.pod
    }

    /// Its pid, if it was started.
    pub fn pid(&self) -> Option<i32> {
        self.daemon.pid()
    }

    /// Its admin socket, for `meshctl --socket`.
    pub fn admin_socket(&self) -> &Path {
        &self.daemon.admin_socket
    }

    /// The file with its token.
    pub fn token_file(&self) -> &Path {
        &self.token
    }

    /// Its `--state-dir`.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// Its `--cache-dir`.
    pub fn cache_dir(&self) -> &Path {
        &self.cache
    }

    pub(crate) fn log_name(&self) -> String {
        self.daemon.log_name.clone()
    }

    /// Starts it and returns at once.
    pub fn launch(&self) -> Result<()> {
        self.daemon.launch(&[])
    }

    /// The same under a program that executes what it is given: `env NAME=VALUE`, `unshare --cgroup`.
    pub fn launch_under(&self, program: &[&str]) -> Result<()> {
        self.daemon.launch(program)
    }

    /// Starts it and waits until it knows the world.
    pub fn start(&self) -> Result<()> {
        self.launch()?;
        self.await_ready()
    }

    /// Waits until it knows the world, from its controller or from its disk.
    pub fn await_ready(&self) -> Result<()> {
        self.daemon.await_that(|| {
            let status = self.status().map_err(|error| format!("{error:#}"))?;
            if status["world"]["complete"] == true { Ok(()) } else { Err(status.to_string()) }
        })
    }

    /// Kills it with SIGKILL.
    pub fn kill(&self) {
        self.daemon.kill();
    }

    /// Asks it to end with SIGTERM.
    pub fn stop(&self, timeout: Duration) -> Result<Output> {
        self.daemon.stop(timeout)
    }

    /// Sends it a signal (SIGSTOP, say).
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.daemon.signal(signal)
    }

    /// Kills it, starts it again and waits until it knows the world.
    pub fn restart(&self) -> Result<()> {
        self.kill();
        self.start()
    }

    /// Its metrics, in the text format.
    pub fn metrics(&self) -> Result<String> {
        self.daemon.metrics()
    }

    /// A path of its admin socket.
    pub fn admin(&self, path: &str) -> Result<Value> {
        self.daemon.json(path)
    }

    /// `GET /v1/status`.
    pub fn status(&self) -> Result<Value> {
        self.daemon.json("/v1/status")
    }

    /// `GET /v1/pods`.
    pub fn pods(&self) -> Result<Vec<Value>> {
        self.daemon.rows("/v1/pods")
    }

    /// `GET /v1/workloads`.
    pub fn workloads(&self) -> Result<Vec<Value>> {
        self.daemon.rows("/v1/workloads")
    }

    /// `GET /v1/connections`.
    pub fn connections(&self) -> Result<Vec<Value>> {
        self.daemon.rows("/v1/connections")
    }

    /// `GET /v1/certs`.
    pub fn certs(&self) -> Result<Vec<Value>> {
        self.daemon.rows("/v1/certs")
    }
}

fn arguments(program: &Path, flags: &[(&str, OsString)]) -> Vec<OsString> {
    let flags = flags.iter().flat_map(|(flag, value)| [OsString::from(flag), value.clone()]);
    [program.into()].into_iter().chain(flags).collect()
}

/// The capabilities of a container of the chart, and no other: whatever a lab shows, it shows with these.
fn with_capabilities(bounding: &str, arguments: Vec<OsString>) -> Vec<OsString> {
    let words = ["setpriv", "--inh-caps=-all", &format!("--bounding-set={bounding}")].map(OsString::from);
    words.into_iter().chain(arguments).collect()
}
