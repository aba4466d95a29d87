//! The API server of a test: started, stopped, started again with the same data.
//!
//! Three kinds, in this order: `WEFT_TEST_KUBECONFIG` names a cluster that is there (it cannot be stopped, and has no
//! audit log for us), `KUBEBUILDER_ASSETS` a directory with envtest's `etcd` and `kube-apiserver`, and else it is the
//! module in `apiserver/`, which `cargo xtask test` and `setup` build below `target/tools`.
//!
//! Invariants: it listens on loopback alone, on the same port after a restart; it ends with the test process, however
//! that ends.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use lab::eventually;

use crate::audit::{self, Request};
use crate::{RUNTIME, envtest, tools};

/// How long it may take to answer after it was started; it takes a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// How an API server is to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// How long old versions are kept: a watch from before that gets 410 Gone. Five minutes otherwise.
    pub compaction: Option<Duration>,
}

/// A running API server.
#[derive(Debug)]
pub struct ApiServer {
    kind: Kind,
    options: Options,
    /// Data, keys, kubeconfig, audit log and logs; gone with this value.
    directory: tempfile::TempDir,
    /// Ports of the server, of etcd and of etcd's peers: the same for all of its lives.
    ports: [u16; 3],
    processes: Mutex<Vec<Child>>,
}

#[derive(Clone, Debug)]
enum Kind {
    /// The module in `apiserver/`, built.
    Own(PathBuf),
    /// A directory with envtest's binaries.
    Envtest(PathBuf),
    /// The kubeconfig of a cluster.
    Cluster(PathBuf),
}

impl ApiServer {
    /// Starts one and waits until it answers.
    pub fn start() -> Result<Self> {
        Self::with(Options::default())
    }

    /// The same with options.
    pub fn with(options: Options) -> Result<Self> {
        let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let kind = match (named("WEFT_TEST_KUBECONFIG"), named("KUBEBUILDER_ASSETS")) {
            (Some(kubeconfig), _) => Kind::Cluster(kubeconfig),
            (None, Some(assets)) => Kind::Envtest(assets),
            (None, None) => Kind::Own(tools::api_server()?),
        };
        let directory = tempfile::Builder::new().prefix("weft-kube-").tempdir()?;
        let server =
            Self { kind, options, directory, ports: free_ports()?, processes: Mutex::new(Vec::new()) };
        if let Kind::Envtest(_) = server.kind {
            envtest::prepare(server.directory(), server.ports[0])?;
        }
        server.launch()?;
        Ok(server)
    }

    /// Whether it can be stopped and has an audit log: not if it is somebody's cluster.
    pub fn is_ours(&self) -> bool {
        !matches!(self.kind, Kind::Cluster(_))
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        match &self.kind {
            Kind::Cluster(kubeconfig) => kubeconfig.clone(),
            Kind::Own(_) | Kind::Envtest(_) => self.directory().join("kubeconfig"),
        }
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// The certificate of its authority, in PEM.
    pub fn authority(&self) -> Result<Vec<u8>> {
        std::fs::read(self.directory().join("pki/ca.crt")).context("read the API server's authority")
    }

    /// A client that may do everything. Its connections live on the suite's own runtime.
    pub fn client(&self) -> Result<Client> {
        self.client_of(&self.kubeconfig())
    }

    /// A client with somebody's kubeconfig.
    pub fn client_of(&self, kubeconfig: &Path) -> Result<Client> {
        let config = Kubeconfig::read_from(kubeconfig).context("read the kubeconfig")?;
        RUNTIME.block_on(async {
            let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
            Ok(Client::try_from(config)?)
        })
    }

    /// Writes a kubeconfig for whoever has the token in `token_file` (read again and again, as client-go does).
    pub fn kubeconfig_for(&self, name: &str, token_file: &Path) -> Result<PathBuf> {
        let path = self.directory().join(format!("{name}.kubeconfig"));
        let text = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "kube",
            "clusters": [{"name": "kube", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port()),
                "certificate-authority": self.directory().join("pki/ca.crt"),
            }}],
            "users": [{"name": name, "user": {"tokenFile": token_file}}],
            "contexts": [{"name": "kube", "context": {"cluster": "kube", "user": name}}],
        });
        std::fs::write(&path, text.to_string())?;
        Ok(path)
    }

    /// `kubectl ARGUMENTS` as administrator; its output.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        tools::run(tools::kubectl()?, &self.kubeconfig(), arguments)
    }

    /// `helm ARGUMENTS` as administrator; its output.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        tools::run(tools::helm()?, &self.kubeconfig(), arguments)
    }

    /// Ends it, etcd too. What was said to it before stays.
    pub fn stop(&self) {
        let mut processes = self.processes();
        while let Some(mut child) = processes.pop() {
            // The server first, then etcd. Its input ends, and it is asked as well.
            drop(child.stdin.take());
            let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
            // One that has ended already needs no signal.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let ended = eventually(Duration::from_secs(15), || match child.try_wait() {
                Ok(Some(_)) => Ok(()),
                other => Err(format!("{other:?}")),
            });
            if ended.is_err() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    /// Starts it again with the same data, on the same port, and waits until it answers.
    pub fn start_again(&self) -> Result<()> {
        self.launch()
    }

    /// Stops and starts it.
    pub fn restart(&self) -> Result<()> {
        self.stop();
        self.launch()
    }

    /// Every request that was answered since the beginning, but the server's own. Empty for a cluster that is not ours.
    pub fn audit(&self) -> Result<Vec<Request>> {
        if !self.is_ours() {
            return Ok(Vec::new());
        }
        audit::read(&self.directory().join("audit.log"))
    }

    fn launch(&self) -> Result<()> {
        let mut processes = self.processes();
        if !processes.is_empty() {
            bail!("the API server runs already");
        }
        match &self.kind {
            Kind::Cluster(_) => return Ok(()),
            Kind::Own(program) => processes.push(self.spawn_own(program)?),
            Kind::Envtest(assets) => {
                processes.extend(envtest::spawn(
                    assets,
                    self.directory(),
                    self.ports,
                    self.options.compaction,
                )?);
            }
        }
        eventually(PATIENCE, || {
            for child in processes.iter_mut() {
                if let Ok(Some(status)) = child.try_wait() {
                    return Ok(Err(format!("it has ended with {status}:\n{}", self.log_end())));
                }
            }
            match self.is_ready() {
                true => Ok(Ok(())),
                false => Err(format!("it does not answer:\n{}", self.log_end())),
            }
        })
        .context("wait for the API server")?
        .map_err(anyhow::Error::msg)
    }

    fn spawn_own(&self, program: &Path) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.directory().join("log"))?;
        let mut command = Command::new(program);
        command.arg("--attached").arg("--dir").arg(self.directory());
        command.arg("--port").arg(self.ports[0].to_string());
        command.arg("--etcd-port").arg(self.ports[1].to_string());
        if let Some(interval) = self.options.compaction {
            command.arg("--compaction-interval").arg(format!("{}ms", interval.as_millis()));
        }
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        command.spawn().with_context(|| format!("start {}", program.display()))
    }

    fn is_ready(&self) -> bool {
        let Ok(client) = self.client() else { return false };
        crate::block_on(async {
            let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(client);
            let asked = tokio::time::timeout(Duration::from_secs(5), namespaces.get("default"));
            matches!(asked.await, Ok(Ok(_)))
        })
    }

    fn log_end(&self) -> String {
        let text = std::fs::read_to_string(self.directory().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    fn processes(&self) -> MutexGuard<'_, Vec<Child>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Ports of loopback that are free now, all different, for somebody who listens there later. They are below those that the
/// kernel gives who asks for any (ip_local_port_range, from 32768), and this process gives each of them once.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    const FROM: u32 = 20_000;
    const COUNT: u32 = 12_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Processes beside each other begin in different places.
    let first = std::process::id().wrapping_mul(397) % COUNT;
    let mut ports = [0; N];
    for port in &mut ports {
        let free = |given: u32| {
            let port = u16::try_from(FROM + (first + given) % COUNT).ok()?;
            TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port)
        };
        *port = (0..COUNT)
            .find_map(|_| free(GIVEN.fetch_add(1, Ordering::Relaxed)))
            .context("no port of loopback is free")?;
    }
    Ok(ports)
}
