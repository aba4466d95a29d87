//! Controllers as processes, an API server, and agents that apply whatever they are told: what the tests of the control
//! plane need, without a data path.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, reason = "tests; each file uses a part of it")]

mod objects;

pub use objects::*;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Client, CustomResourceExt as _};
use kube_tests::{ApiServer, Options, block_on};
use mesh_crd::{AuthorizationPolicy, MeshConfig, NodeState};
use mesh_model::{Service, ServiceKey, Tunnel, Uid, Workload, World};
use mesh_xds::{Capture, ClientConfig, Event};
use serde_json::{Value, json};

/// Everything that is waited for is there much earlier on an idle machine.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Weft's own namespace.
pub const SYSTEM: &str = "weft-system";

pub fn eventually<T>(what: &str, probe: impl FnMut() -> Result<T, String>) -> T {
    lab::eventually(DEADLINE, probe).unwrap_or_else(|error| panic!("waited for {what}: {error}"))
}

pub fn so(is: bool, otherwise: impl std::fmt::Debug) -> Result<(), String> {
    if is { Ok(()) } else { Err(format!("{otherwise:?}")) }
}

/// An API server with Weft's definitions, two nodes, and a namespace `shop`.
pub struct Home {
    pub server: ApiServer,
    pub client: Client,
    dir: tempfile::TempDir,
}

impl Home {
    pub fn start() -> Self {
        Self::with(Options::default(), true)
    }

    pub fn with(options: Options, definitions: bool) -> Self {
        let server = ApiServer::with(options).unwrap();
        let client = server.client().unwrap();
        let home = Self { server, client, dir: tempfile::tempdir().unwrap() };
        if definitions {
            home.definitions();
        }
        for namespace in [SYSTEM, "shop"] {
            home.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}));
        }
        for node in ["one", "two"] {
            home.node(node);
        }
        home.private("tokens", "one token-of-one\ntwo token-of-two\n");
        home
    }

    /// Weft's own kinds; back when they are served.
    pub fn definitions(&self) {
        for definition in [MeshConfig::crd(), NodeState::crd(), AuthorizationPolicy::crd()] {
            let mut definition = serde_json::to_value(definition).unwrap();
            definition["apiVersion"] = "apiextensions.k8s.io/v1".into();
            definition["kind"] = "CustomResourceDefinition".into();
            self.apply(definition);
        }
        eventually("the definitions to be served", || {
            let listed = block_on(async {
                let configs: Api<MeshConfig> = Api::all(self.client.clone());
                let states: Api<NodeState> = Api::all(self.client.clone());
                let policies: Api<AuthorizationPolicy> = Api::all(self.client.clone());
                [
                    configs.list(&Default::default()).await.is_ok(),
                    states.list(&Default::default()).await.is_ok(),
                    policies.list(&Default::default()).await.is_ok(),
                ]
            });
            so(listed == [true; 3], listed)
        });
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn private(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Creates or changes an object; its status, too, where it has one.
    pub fn apply(&self, object: Value) {
        self.try_apply(object).unwrap();
    }

    pub fn try_apply(&self, object: Value) -> kube::Result<()> {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let api = self.api(&object);
        let params = PatchParams::apply("test").force();
        block_on(async {
            api.patch(&name, &params, &Patch::Apply(&object)).await?;
            if object.get("status").is_some() {
                api.patch_status(&name, &params, &Patch::Apply(&object)).await?;
            }
            Ok(())
        })
    }

    /// A merge patch.
    pub fn merge(&self, object: &Value, patch: Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        block_on(self.api(object).patch(name, &PatchParams::default(), &Patch::Merge(patch))).unwrap();
    }

    pub fn delete(&self, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        let params = DeleteParams::default().grace_period(0);
        drop(block_on(self.api(object).delete(name, &params)).unwrap());
    }

    pub fn get(&self, object: &Value) -> Option<Value> {
        let name = object["metadata"]["name"].as_str().unwrap();
        let got = block_on(self.api(object).get_opt(name)).unwrap();
        got.map(|object| serde_json::to_value(object).unwrap())
    }

    pub fn list(&self, version: &str, kind: &str, namespace: &str) -> Vec<Value> {
        let head = json!({"apiVersion": version, "kind": kind, "metadata": {"namespace": namespace}});
        let listed = block_on(self.api(&head).list(&Default::default())).unwrap();
        listed.items.into_iter().map(|object| serde_json::to_value(object).unwrap()).collect()
    }

    fn api(&self, object: &Value) -> Api<DynamicObject> {
        let version = object["apiVersion"].as_str().unwrap();
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let gvk = GroupVersionKind::gvk(group, version, object["kind"].as_str().unwrap());
        let resource = match &*gvk.kind {
            "NetworkPolicy" => ApiResource::from_gvk_with_plural(&gvk, "networkpolicies"),
            _ => ApiResource::from_gvk(&gvk),
        };
        match object["metadata"]["namespace"].as_str().filter(|namespace| !namespace.is_empty()) {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    pub fn node(&self, name: &str) {
        self.apply(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": format!("zone-{name}")}},
        }));
    }

    /// A running pod of namespace `shop`; its UID.
    pub fn pod(&self, name: &str, node: &str, address: &str, labels: Value) -> String {
        let object = pod(name, node, address, labels);
        self.apply(object.clone());
        self.get(&object).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// A controller, ready or not.
    pub fn controller(&self, replica: &str) -> Controller {
        self.controller_as(replica, &self.server.kubeconfig())
    }

    /// With somebody's kubeconfig.
    pub fn controller_as(&self, replica: &str, kubeconfig: &std::path::Path) -> Controller {
        let [port, metrics, ready] = ports();
        let log = self.path(&format!("{replica}.log"));
        let mut command = Command::new(lab::binary("mesh-controller").unwrap());
        command
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--replica={replica}"))
            .arg(format!("--listen=127.0.0.1:{port}"))
            .arg(format!("--metrics-listen=127.0.0.1:{metrics}"))
            .arg(format!("--ready-listen=127.0.0.1:{ready}"))
            .arg(format!("--admin-socket={}", self.path(&format!("{replica}.sock")).display()))
            .arg(format!("--state-dir={}", self.path("state").display()))
            .arg(format!("--agent-tokens={}", self.path("tokens").display()))
            .env_remove("RUST_LOG")
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::options().create(true).append(true).open(&log).unwrap());
        let child = command.spawn().unwrap();
        Controller { child, replica: replica.into(), port, metrics, ready, log }
    }

    /// A controller that is ready.
    pub fn ready_controller(&self, replica: &str) -> Controller {
        let controller = self.controller(replica);
        controller.is_ready();
        controller
    }

    /// The roots for agents, in a file.
    fn roots(&self) -> PathBuf {
        let path = self.path("roots.pem");
        // The API server may be away.
        if path.exists() {
            return path;
        }
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), SYSTEM);
        eventually("the roots", || {
            let map = block_on(maps.get_opt("weft-roots")).map_err(|error| error.to_string())?;
            let pem = map.and_then(|map| map.data?.remove("root.pem"));
            let pem = pem.or_else(|| fs::read_to_string(self.path("state/root.pem")).ok());
            fs::write(&path, pem.ok_or("no ConfigMap weft-roots")?).map_err(|error| error.to_string())
        });
        path
    }

    /// An agent of a node, connected to a controller.
    pub fn agent(&self, node: &str, controller: &Controller) -> Agent {
        let token = format!("token-{node}");
        self.private(&token, &format!("token-of-{node}\n"));
        let address = format!("127.0.0.1:{}", controller.port);
        Agent::start(ClientConfig::new(address, self.roots(), self.path(&token), node))
    }

    /// What stands in a node's status.
    pub fn node_state(&self, node: &str) -> Value {
        self.get(&object("weft.dev/v1alpha1", "NodeState", node))
            .map_or(Value::Null, |object| object["status"].clone())
    }

    /// The condition of the MeshConfig: status, reason, message.
    pub fn accepted(&self) -> (String, String, String) {
        let config = self.get(&mesh_config(json!({}))).unwrap_or_default();
        let condition = &config["status"]["conditions"][0];
        let word = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
        (word("status"), word("reason"), word("message"))
    }
}

/// A controller's process.
pub struct Controller {
    child: Child,
    pub replica: String,
    pub port: u16,
    metrics: u16,
    ready: u16,
    log: PathBuf,
}

impl Controller {
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn is_ready(&self) {
        eventually("the controller to be ready", || {
            let answer = self.readiness().unwrap_or_else(|error| error.to_string());
            so(answer.contains("\"ready\":true"), answer)
        });
    }

    /// What `/readyz` answers.
    pub fn readiness(&self) -> std::io::Result<String> {
        http(self.ready, "/readyz")
    }

    /// The value of a metric, with its labels.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = http(self.metrics, "/metrics").ok()?;
        let line =
            text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    pub fn leads(&self) -> bool {
        self.metric("weft_controller_leader") == Some(1.0)
    }

    /// Resident memory in KiB: now, and at its peak.
    pub fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let value = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        (value("VmRSS:"), value("VmHWM:"))
    }

    /// As `kill -9` does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and it ends.
    pub fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let status = eventually("the controller to stop", || {
            self.child.try_wait().unwrap().ok_or_else(|| "it runs".to_owned())
        });
        assert!(status.success(), "{status}: {}", self.log());
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let end: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!(
                "--- log of {}\n{}",
                self.replica,
                end.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
    }
}

fn http(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: weft\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// An agent that applies what it is told and remembers it.
pub struct Agent {
    pub client: mesh_xds::Client,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    world: World,
    released: BTreeSet<Uid>,
    /// UIDs of workloads that were gone at some moment.
    removed: BTreeSet<Uid>,
    /// Updates are held back, unanswered, while this is set.
    deaf: bool,
    connects: usize,
    errors: Vec<String>,
}

impl Agent {
    fn start(config: ClientConfig) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = seen.clone();
        let client = block_on(async move {
            let (client, mut events) = mesh_xds::Client::spawn(config);
            tokio::spawn(async move {
                while let Some(event) = events.recv().await {
                    match event {
                        Event::Connected => shared.lock().unwrap().connects += 1,
                        Event::Disconnected { error } => shared.lock().unwrap().errors.push(error),
                        Event::Released(uids) => shared.lock().unwrap().released.extend(uids),
                        Event::Update(update) => {
                            while shared.lock().unwrap().deaf {
                                tokio::time::sleep(Duration::from_millis(5)).await;
                            }
                            let mut seen = shared.lock().unwrap();
                            for change in update.changes {
                                if let mesh_model::Change::WorkloadRemoved(uid) = &change {
                                    seen.removed.insert(uid.clone());
                                }
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
            client
        });
        Self { client, seen }
    }

    pub fn deaf(&self, deaf: bool) {
        self.seen.lock().unwrap().deaf = deaf;
    }

    pub fn world(&self) -> World {
        self.seen.lock().unwrap().world.clone()
    }

    pub fn connects(&self) -> usize {
        self.seen.lock().unwrap().connects
    }

    pub fn removed(&self) -> BTreeSet<Uid> {
        self.seen.lock().unwrap().removed.clone()
    }

    pub fn is_released(&self, uid: &str) -> bool {
        self.seen.lock().unwrap().released.contains(&Uid::new(uid))
    }

    pub fn is_whole(&self) {
        eventually("the world to be whole", || {
            so(self.world().is_complete(), &self.seen.lock().unwrap().errors)
        });
    }

    pub fn workload(&self, uid: &str) -> Option<Workload> {
        self.world().workload(&Uid::new(uid)).map(|workload| workload.as_ref().clone())
    }

    pub fn service(&self, name: &str) -> Option<Service> {
        let world = self.world();
        let key = ServiceKey::new("shop", name);
        world.services().find(|service| service.key == key).map(|service| service.as_ref().clone())
    }

    /// The addresses behind a service.
    pub fn endpoints(&self, name: &str) -> Vec<String> {
        let service = self.service(name);
        service
            .iter()
            .flat_map(|service| &service.endpoints)
            .map(|endpoint| endpoint.address.to_string())
            .collect()
    }

    pub fn is_enrolled(&self, uid: &str, wanted: bool) {
        eventually(&format!("{uid} to be enrolled: {wanted}"), || {
            let workload = self.workload(uid);
            so(workload.as_ref().is_some_and(|workload| workload.enrolled == wanted), workload)
        });
    }

    pub fn has_tunnel(&self, uid: &str, wanted: Tunnel) {
        eventually(&format!("{uid} to be {wanted:?}"), || {
            let tunnel = self.workload(uid).map(|workload| workload.tunnel);
            so(tunnel == Some(wanted), tunnel)
        });
    }

    pub fn captured(&self, uid: &str) {
        self.client.report(Uid::new(uid), Capture::Captured);
    }

    pub fn leaving(&self, uid: &str) {
        self.client.report(Uid::new(uid), Capture::Leaving);
    }
}
