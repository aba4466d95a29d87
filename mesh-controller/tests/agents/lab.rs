//! A controller in a temporary directory and agents that apply whatever they are told.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser as _;
use mesh_controller::config::Config;
use mesh_controller::run::{Controller, RunError};
use mesh_model::{Service, ServiceKey, Tunnel, Uid, Workload, World};
use mesh_telemetry::api::ControllerStatus;
use mesh_telemetry::shutdown::Shutdown;
use mesh_xds::{Client, ClientConfig, Event};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

const DEADLINE: Duration = Duration::from_secs(20);

/// Files, state and, while it runs, a controller.
pub struct Lab {
    dir: tempfile::TempDir,
    running: Option<Running>,
    /// Holds the port for the controller over its restarts: bound with `SO_REUSEADDR` and not listening, it lets a listener
    /// with the same in beside it, and nobody else is given the port.
    port: TcpSocket,
    flags: Vec<String>,
}

struct Running {
    shutdown: Shutdown,
    task: JoinHandle<Result<(), RunError>>,
    metrics: SocketAddr,
}

impl Lab {
    /// A controller over no files, with tokens for the nodes `one`, `two` and `three`.
    pub async fn start() -> Self {
        let mut lab = Self::stopped();
        lab.start_controller().await;
        lab
    }

    pub fn stopped() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("objects")).unwrap();
        let port = TcpSocket::new_v4().unwrap();
        port.set_reuseaddr(true).unwrap();
        port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let lab = Self { dir, running: None, port, flags: Vec::new() };
        lab.private("tokens", "# node token\none token-of-one\ntwo token-of-two\n\nthree token-of-three\n");
        lab
    }

    pub fn flag(&mut self, flag: &str, value: &str) {
        self.flags.extend([flag.to_owned(), value.to_owned()]);
    }

    pub async fn start_controller(&mut self) {
        self.try_start_controller().await.unwrap();
    }

    pub async fn try_start_controller(&mut self) -> Result<(), RunError> {
        let path = |name: &str| self.path(name).display().to_string();
        let mut flags = vec![
            "mesh-controller".to_owned(),
            format!("--dir={}", path("objects")),
            format!("--listen={}", self.address()),
            format!("--state-dir={}", path("state")),
            format!("--agent-tokens={}", path("tokens")),
            format!("--admin-socket={}", path("admin.sock")),
            "--metrics-listen=127.0.0.1:0".to_owned(),
        ];
        flags.extend(self.flags.iter().cloned());
        let config = Config::try_parse_from(flags).unwrap();
        let shutdown = Shutdown::new();
        let controller = Controller::open(&config, shutdown.clone()).await?;
        assert_eq!(controller.local_addr().unwrap(), self.address());
        let metrics = controller.metrics_addr().unwrap();
        let task = tokio::spawn(controller.run());
        self.running = Some(Running { shutdown, task, metrics });
        Ok(())
    }

    pub async fn stop_controller(&mut self) {
        let running = self.running.take().unwrap();
        running.shutdown.trigger();
        tokio::time::timeout(DEADLINE, running.task).await.unwrap().unwrap().unwrap();
    }

    fn address(&self) -> SocketAddr {
        self.port.local_addr().unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes an object file the way an editor does: beside, then over.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path("objects").join(name);
        let new = self.path("objects").join(format!(".{name}.swp"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.path("objects").join(name)).unwrap();
    }

    pub fn private(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(self.path(name), text).unwrap();
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// What an agent of a node would be started with.
    pub fn agent_config(&self, node: &str) -> ClientConfig {
        let token = format!("token-{node}");
        self.private(&token, &format!("token-of-{node}\n"));
        ClientConfig::new(self.address().to_string(), self.path("state/root.pem"), self.path(&token), node)
    }

    pub fn agent(&self, node: &str) -> Agent {
        Agent::start(self.agent_config(node))
    }

    /// An answer of the unix socket.
    pub async fn admin(&self, path: &str) -> String {
        let stream = tokio::net::UnixStream::connect(self.path("admin.sock")).await.unwrap();
        http(stream, path).await
    }

    /// An answer of the TCP port.
    pub async fn metrics(&self, path: &str) -> String {
        let stream = tokio::net::TcpStream::connect(self.running.as_ref().unwrap().metrics).await.unwrap();
        http(stream, path).await
    }
}

async fn http(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let request = format!("GET {path} HTTP/1.1\r\nhost: weft\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// An agent that applies what it is told and remembers it.
pub struct Agent {
    pub client: Client,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    world: World,
    released: BTreeSet<Uid>,
    errors: Vec<String>,
    updates: Vec<(Instant, usize)>,
    /// Updates are held back, unanswered, while this is set.
    deaf: bool,
    /// So many updates are refused.
    refuses: usize,
}

impl Agent {
    pub fn start(config: ClientConfig) -> Self {
        let (client, mut events) = Client::spawn(config);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = seen.clone();
        let task = tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                match event {
                    Event::Connected => {}
                    Event::Disconnected { error } => shared.lock().unwrap().errors.push(error),
                    Event::Released(uids) => shared.lock().unwrap().released.extend(uids),
                    Event::Update(update) => {
                        while shared.lock().unwrap().deaf {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        let mut seen = shared.lock().unwrap();
                        if seen.refuses > 0 {
                            seen.refuses -= 1;
                            update.nack("a map is full");
                            continue;
                        }
                        seen.updates.push((Instant::now(), update.changes.len()));
                        for change in update.changes {
                            seen.world.apply(change);
                        }
                        if update.complete {
                            seen.world.set_complete();
                        }
                        update.receipt.ack();
                    }
                }
            }
        });
        Self { client, seen, task }
    }

    pub fn deaf(&self, deaf: bool) {
        self.seen.lock().unwrap().deaf = deaf;
    }

    pub fn refuse(&self, updates: usize) {
        self.seen.lock().unwrap().refuses = updates;
    }

    pub fn world(&self) -> World {
        self.seen.lock().unwrap().world.clone()
    }

    pub fn workload(&self, uid: &str) -> Option<Arc<Workload>> {
        self.world().workload(&Uid::new(uid)).cloned()
    }

    pub fn service(&self, namespace: &str, name: &str) -> Option<Service> {
        let world = self.world();
        let key = ServiceKey::new(namespace, name);
        world.services().find(|service| service.key == key).map(|service| service.as_ref().clone())
    }

    pub fn tunnel(&self, uid: &str) -> Option<Tunnel> {
        self.workload(uid).map(|workload| workload.tunnel)
    }

    pub fn is_released(&self, uid: &str) -> bool {
        self.seen.lock().unwrap().released.contains(&Uid::new(uid))
    }

    pub fn errors(&self) -> Vec<String> {
        self.seen.lock().unwrap().errors.clone()
    }

    pub fn last_update(&self) -> Option<Instant> {
        self.seen.lock().unwrap().updates.last().map(|(at, _)| *at)
    }

    pub fn updates(&self) -> usize {
        self.seen.lock().unwrap().updates.len()
    }

    /// How many workloads it knows.
    pub fn workloads(&self) -> usize {
        self.seen.lock().unwrap().world.workloads().count()
    }

    pub async fn whole(&self) {
        eventually("the snapshot to be whole", || self.world().is_complete().then_some(()).ok_or("not yet"))
            .await;
    }

    pub async fn has_tunnel(&self, uid: &str, wanted: Tunnel) {
        eventually(&format!("{uid} to be {wanted:?}"), || match self.tunnel(uid) {
            Some(tunnel) if tunnel == wanted => Ok(()),
            other => Err(other),
        })
        .await;
    }

    /// The stream and the process behind it are gone.
    pub async fn die(self) {
        self.task.abort();
        let _ = self.task.await;
        drop(self.client);
    }
}

/// Waits until the condition holds; its last value is in the failure.
pub async fn eventually<T, E: std::fmt::Debug>(what: &str, mut condition: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(last) if Instant::now() > end => panic!("waited for {what}; last seen: {last:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

/// What its unix socket says of it.
pub async fn status(lab: &Lab) -> ControllerStatus {
    serde_json::from_str(&lab.admin("/v1/status").await).unwrap()
}

/// The first status that is as wanted.
pub async fn until(lab: &Lab, wanted: impl Fn(&ControllerStatus) -> bool) -> ControllerStatus {
    let end = Instant::now() + DEADLINE;
    loop {
        let status = status(lab).await;
        if wanted(&status) {
            return status;
        }
        assert!(Instant::now() < end, "last seen: {status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Nothing that is going to happen has not happened after this: several times what a change takes.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(400)).await;
}

pub fn namespace(name: &str, capture: Option<&str>) -> String {
    let labels = capture.map(|word| format!(", labels: {{weft.dev/capture: {word}}}")).unwrap_or_default();
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}{labels}}}\n")
}

pub fn pod(name: &str, node: &str, address: &str) -> String {
    format!(
        "---\n\
         apiVersion: v1\n\
         kind: Pod\n\
         metadata:\n  name: {name}\n  namespace: shop\n  uid: uid-{name}\n  labels: {{app: {name}}}\n\
         spec:\n  nodeName: {node}\n  serviceAccountName: {name}\n  containers: [{{name: main, image: none}}]\n\
         status:\n  phase: Running\n  podIPs: [{{ip: {address}}}]\n"
    )
}

pub fn service(name: &str, address: &str) -> String {
    format!(
        "---\n\
         apiVersion: v1\n\
         kind: Service\n\
         metadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  clusterIPs: [{address}]\n  selector: {{app: {name}}}\n  ports: [{{port: 80, targetPort: 8080}}]\n"
    )
}

pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
