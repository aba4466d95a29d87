//! The lab itself: what is in it, and what the API server says of that.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::builder::LabBuilder;
use crate::mesh::{Agent, Controller};
use crate::netns::Netns;
use crate::node::Node;
use crate::objects::{self, Words};
use crate::place::Place;
use crate::pod::{Pod, PodBuilder};
use crate::process::tail;
use crate::service::{ServiceBuilder, ServiceSpec};
use crate::store::Store;
use crate::wire::Capture;
use crate::{eventually, kubeproxy, signals, teardown};

/// The label by which an operator puts a namespace or pod into the mesh.
pub(crate) const CAPTURE_LABEL: &str = "weft.dev/capture";
/// How long the mesh may take for anything that it is waited for: only what hangs takes so long, on however slow a machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The API server's view, and the nodes.
#[derive(Debug)]
pub(crate) struct World {
    place: Place,
    store: Store,
    nodes: Vec<Arc<Node>>,
    cluster: Mutex<Cluster>,
    next_service: AtomicU16,
    /// What kube-proxy last wrote. Held while it writes, so that an older table never replaces a newer one.
    proxied: Mutex<String>,
}

#[derive(Debug, Default)]
struct Cluster {
    /// Labels by name.
    namespaces: BTreeMap<String, Words>,
    pods: BTreeMap<String, Arc<Pod>>,
    services: BTreeMap<String, ServiceSpec>,
}

impl World {
    pub(crate) fn new(place: Place, store: Store, nodes: Vec<Arc<Node>>) -> Arc<Self> {
        Arc::new(Self {
            place,
            store,
            nodes,
            cluster: Mutex::default(),
            next_service: AtomicU16::new(10),
            proxied: Mutex::default(),
        })
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    pub(crate) fn node(&self, name: &str) -> Result<Arc<Node>> {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.cloned().with_context(|| format!("this lab has no node {name}"))
    }

    pub(crate) fn first_node(&self) -> Result<Arc<Node>> {
        self.nodes.first().cloned().context("this lab has no node")
    }

    pub(crate) fn next_service(&self) -> u16 {
        self.next_service.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn ensure_namespace(&self, name: &str) -> Result<()> {
        self.edit_namespace(name, false, |_| {})
    }

    fn edit_namespace(&self, name: &str, rewrite: bool, edit: impl FnOnce(&mut Words)) -> Result<()> {
        let mut cluster = self.cluster();
        let fresh = !cluster.namespaces.contains_key(name);
        let labels = cluster.namespaces.entry(name.to_owned()).or_default();
        labels.insert("kubernetes.io/metadata.name".into(), name.to_owned());
        edit(labels);
        if !fresh && !rewrite {
            return Ok(());
        }
        let object = objects::namespace(name, labels);
        // Under the lock, so that the file says what the map says.
        self.store.put("namespace", "", name, &object).map(drop)
    }

    /// Where objects are told.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// A pod has been started: from now on the API knows its addresses.
    pub(crate) fn admit(&self, pod: &Arc<Pod>) -> Result<()> {
        self.cluster().pods.insert(pod.key(), pod.clone());
        self.put_pod(pod)
    }

    /// Writes a pod's object and what follows from it.
    pub(crate) fn put_pod(&self, pod: &Pod) -> Result<()> {
        self.store.put("pod", pod.namespace(), pod.name(), &pod.object())?;
        self.update_kubeproxy()
    }

    pub(crate) fn forget_pod(&self, pod: &Pod) -> Result<()> {
        self.cluster().pods.remove(&pod.key());
        self.store.remove("pod", pod.namespace(), pod.name())?;
        self.update_kubeproxy()
    }

    pub(crate) fn put_service(&self, spec: ServiceSpec) -> Result<()> {
        self.store.put("service", &spec.namespace, &spec.name, &spec.object())?;
        self.cluster().services.insert(spec.key(), spec);
        self.update_kubeproxy()
    }

    /// Takes over what a file in the directory of objects declares: nothing is written for it.
    pub(crate) fn adopt(
        &self,
        namespaces: BTreeMap<String, Words>,
        services: Vec<ServiceSpec>,
    ) -> Result<()> {
        {
            let mut cluster = self.cluster();
            cluster.namespaces.extend(namespaces);
            cluster.services.extend(services.into_iter().map(|service| (service.key(), service)));
        }
        self.update_kubeproxy()
    }

    pub(crate) fn remove_service(&self, spec: &ServiceSpec) -> Result<()> {
        self.cluster().services.remove(&spec.key());
        self.store.remove("service", &spec.namespace, &spec.name)?;
        self.update_kubeproxy()
    }

    pub(crate) fn update_kubeproxy(&self) -> Result<()> {
        let mut proxied = self.proxied.lock().unwrap_or_else(PoisonError::into_inner);
        let forwards: Vec<_> = {
            let cluster = self.cluster();
            let pods: Vec<Arc<Pod>> = cluster.pods.values().cloned().collect();
            cluster.services.values().flat_map(|service| service.forwards(&pods)).collect()
        };
        let script = kubeproxy::script(&forwards);
        if *proxied == script {
            return Ok(());
        }
        for node in &self.nodes {
            kubeproxy::apply(node, &script)?;
        }
        *proxied = script;
        Ok(())
    }

    fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lab. Dropping it takes everything away again.
#[derive(Debug)]
pub struct Lab {
    world: Arc<World>,
    controllers: Vec<Controller>,
    agents: Vec<Agent>,
    /// The namespace between more than two nodes.
    _between: Option<Netns>,
    guard: Option<Child>,
    next_capture: AtomicU32,
    /// A failure has been shown already.
    reported: AtomicBool,
}

impl Lab {
    /// A lab to be described.
    pub fn builder() -> LabBuilder {
        LabBuilder::default()
    }

    pub(crate) fn assemble(world: Arc<World>, between: Option<Netns>, guard: Child) -> Self {
        Self {
            world,
            controllers: Vec::new(),
            agents: Vec::new(),
            _between: between,
            guard: Some(guard),
            next_capture: AtomicU32::new(1),
            reported: AtomicBool::new(false),
        }
    }

    /// Takes over the programs of a mesh, started or not: from now on they are the lab's.
    pub fn install_mesh(&mut self, controllers: Vec<Controller>, agents: Vec<Agent>) {
        (self.controllers, self.agents) = (controllers, agents);
    }

    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// Its id and paths.
    pub fn place(&self) -> &Place {
        &self.world.place
    }

    /// A node by name.
    ///
    /// # Panics
    /// If the lab has no such node.
    pub fn node(&self, name: &str) -> Arc<Node> {
        match self.world.node(name) {
            Ok(node) => node,
            Err(error) => panic!("{error}"),
        }
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Arc<Node>] {
        self.world.nodes()
    }

    /// A namespace, to be made or changed.
    pub fn namespace(&self, name: &str) -> NamespaceHandle<'_> {
        NamespaceHandle { world: &self.world, name: name.to_owned() }
    }

    /// Puts a namespace into the mesh or takes it out.
    pub fn label_namespace(&self, name: &str, captured: bool) -> Result<()> {
        let handle = self.namespace(name);
        if captured { handle.captured() } else { handle.released() }
    }

    /// A pod to be made, by `NAMESPACE/NAME`.
    pub fn pod(&self, key: &str) -> PodBuilder {
        PodBuilder::new(self.world.clone(), key)
    }

    /// A Service to be made, by `NAMESPACE/NAME`.
    pub fn service(&self, key: &str) -> ServiceBuilder {
        ServiceBuilder::new(self.world.clone(), key)
    }

    /// All pods that run, the mesh's own too.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.world.cluster().pods.values().cloned().collect()
    }

    /// Writes a file into the directory that the controller watches, as it is.
    pub fn write_object(&self, file: &str, content: &str) -> Result<()> {
        self.place().publish(&self.place().objects().join(file), content)
    }

    /// Removes a file from the directory that the controller watches.
    pub fn remove_object(&self, file: &str) -> Result<()> {
        let path = self.place().objects().join(file);
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    /// The controller, or the first of them.
    ///
    /// # Panics
    /// In a lab without a mesh.
    pub fn controller(&self) -> &Controller {
        let Some(controller) = self.controllers.first() else { panic!("this lab has no mesh") };
        controller
    }

    /// All controllers.
    pub fn controllers(&self) -> &[Controller] {
        &self.controllers
    }

    /// The agent of a node.
    ///
    /// # Panics
    /// In a lab without a mesh, or without that node.
    pub fn agent(&self, node: &str) -> &Agent {
        let Some(agent) = self.agents.iter().find(|agent| agent.node() == node) else {
            panic!("this lab has no agent on {node}")
        };
        agent
    }

    /// All agents.
    pub fn agents(&self) -> &[Agent] {
        &self.agents
    }

    /// Waits until the pod's agent says that it is captured.
    pub fn await_captured(&self, pod: &Pod) -> Result<()> {
        self.await_state(pod, "captured")
    }

    /// Waits until the pod's agent says that it is outside the mesh.
    pub fn await_excluded(&self, pod: &Pod) -> Result<()> {
        self.await_state(pod, "excluded")
    }

    /// Waits until the pod's agent says that it is in this state (`captured`, `pending`, `excluded`, `unknown`).
    pub fn await_state(&self, pod: &Pod, state: &str) -> Result<()> {
        let agent = self.agent(pod.node().name());
        let probe = || {
            let pods = agent.pods().map_err(|error| format!("{error:#}"))?;
            let entry = pods.iter().find(|entry| entry["uid"] == pod.uid());
            match entry {
                Some(entry) if entry["state"] == state => Ok(()),
                Some(entry) => Err(entry.to_string()),
                None => Err(format!("its agent does not know it, only {} others", pods.len())),
            }
        };
        eventually(PATIENCE, probe).with_context(|| format!("wait for {} to be {state}", pod.key()))
    }

    /// Waits until every other node's agent sees the pod as reachable through a tunnel.
    pub fn await_peers_tunnel(&self, pod: &Pod) -> Result<()> {
        self.await_peers_see(pod, "hbone")
    }

    /// Waits until every other node's agent sees the pod at its address with this tunnel (`none`, `hbone`, `withdrawn`,
    /// `foreign`).
    pub fn await_peers_see(&self, pod: &Pod, tunnel: &str) -> Result<()> {
        for agent in self.agents.iter().filter(|agent| agent.node() != pod.node().name()) {
            let probe = || {
                let workloads = agent.workloads().map_err(|error| format!("{error:#}"))?;
                let entry = workloads.iter().find(|entry| entry["uid"] == pod.uid());
                match entry {
                    Some(entry) if entry["tunnel"] == tunnel && has_address(entry, pod) => Ok(()),
                    Some(entry) => Err(entry.to_string()),
                    None => Err("not in its world".to_owned()),
                }
            };
            eventually(PATIENCE, probe).with_context(|| {
                format!("wait for the agent on {} to see {} as {tunnel}", agent.node(), pod.key())
            })?;
        }
        Ok(())
    }

    /// Captures everything on a node's wire to the other nodes, from now on.
    pub fn capture_wire(&self, node: &str) -> Result<Capture> {
        self.capture_wire_with(node, "", crate::wire::WHOLE_PACKETS)
    }

    /// The same with a filter in tcpdump's language, and this many bytes of each packet (a small number keeps up with bulk
    /// transfers).
    pub fn capture_wire_with(&self, node: &str, filter: &str, bytes: u32) -> Result<Capture> {
        let number = self.next_capture.fetch_add(1, Ordering::Relaxed);
        let path = self.place().dir().join("captures").join(format!("{node}-{number}.pcap"));
        Capture::start(self.place(), &self.world.node(node)?, path, filter, bytes)
    }

    /// Ends of the logs of the mesh, and how to enter the pods that a failure names (or the first few): what a failed test
    /// shows.
    pub fn report(&self, failure: &str) -> String {
        const MOST: usize = 8;
        let mut text = format!("lab {} in {}\n", self.place().id(), self.place().dir().display());
        let agents = self.agents.iter().map(Agent::log_name);
        for name in agents.chain(self.controllers.iter().map(Controller::log_name)) {
            add_log(&mut text, &self.place().logs().join(format!("{name}.log")));
        }
        let (mut pods, others): (Vec<_>, Vec<_>) =
            self.pods().into_iter().partition(|pod| failure.contains(&pod.key()));
        pods.extend(others);
        for pod in pods.iter().take(MOST) {
            let _ = writeln!(text, "enter {} on {} with: {}", pod.key(), pod.node().name(), pod.enter());
        }
        if let Some(more) = pods.len().checked_sub(MOST + 1) {
            let _ = writeln!(text, "and {} more pods", more + 1);
        }
        text.push_str("(a failed test takes its lab away; the logs stay with WEFT_LAB_KEEP=1)\n");
        text
    }

    /// Prints the report once.
    pub fn show_failure(&self, failure: &str) {
        if !self.reported.swap(true, Ordering::Relaxed) {
            eprintln!("{}", self.report(failure));
        }
    }

    /// Takes everything away and says what could not be. Dropping does the same and prints it.
    pub fn stop(mut self) -> Result<()> {
        self.finish()
    }

    /// Leaves everything up when this process ends, to be removed by [`teardown::remove`] or `weft-lab sweep --all`.
    pub fn leave_up(mut self) -> Result<Place> {
        let place = self.place().clone();
        place.detach()?;
        signals::forget(&place);
        self.dismiss_guard();
        // Handles must not kill what is to stay; the process is about to end.
        std::mem::forget(self);
        Ok(place)
    }

    fn finish(&mut self) -> Result<()> {
        if self.guard.is_none() {
            return Ok(());
        }
        let place = self.place().clone();
        let result = teardown::remove(&place);
        signals::forget(&place);
        self.dismiss_guard();
        result
    }

    /// Tells the guard that there is nothing left to do, and waits for it.
    fn dismiss_guard(&mut self) {
        use std::io::Write;
        let Some(mut guard) = self.guard.take() else { return };
        if let Some(mut pipe) = guard.stdin.take() {
            // A guard that was killed is none to be dismissed.
            let _ = pipe.write_all(b"d");
        }
        let _ = guard.wait();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.reported.load(Ordering::Relaxed) {
            eprintln!("{}", self.report(""));
        }
        if let Err(error) = self.finish() {
            eprintln!("lab {}: something is left: {error:#}", self.place().id());
        }
    }
}

/// Whether a workload's row has the pod's addresses, where peers go by them: a pod is known before its addresses are.
fn has_address(entry: &serde_json::Value, pod: &Pod) -> bool {
    let known = |address: &std::net::IpAddr| {
        let said = entry["addresses"].as_array();
        said.is_some_and(|said| said.iter().any(|said| *said == address.to_string()))
    };
    !matches!(entry["tunnel"].as_str(), Some("hbone" | "foreign")) || pod.addresses().iter().all(known)
}

fn add_log(text: &mut String, path: &Path) {
    if path.exists() {
        let _ = writeln!(text, "--- end of {}\n{}", path.display(), tail(path, 60));
    }
}

/// A namespace of the API.
#[derive(Debug)]
pub struct NamespaceHandle<'a> {
    world: &'a Arc<World>,
    name: String,
}

impl NamespaceHandle<'_> {
    /// Makes it, outside the mesh, if it is not there.
    pub fn create(self) -> Result<()> {
        self.world.ensure_namespace(&self.name)
    }

    /// Puts it into the mesh (and makes it).
    pub fn captured(self) -> Result<()> {
        self.world.edit_namespace(&self.name, true, |labels| {
            labels.insert(CAPTURE_LABEL.into(), "enabled".into());
        })
    }

    /// Takes it out of the mesh (and makes it).
    pub fn released(self) -> Result<()> {
        self.world.edit_namespace(&self.name, true, |labels| {
            labels.remove(CAPTURE_LABEL);
        })
    }
}
