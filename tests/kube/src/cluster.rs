//! The lab with an API server where the directory of YAML was: nodes and pods are objects of the API, and the mesh is
//! installed with Helm and started as its Deployment and DaemonSet say.
//!
//! ```text
//!   helm install ─▶ Deployment ──template──▶ weft-controller-0..n, each in its pod, with its account's token
//!                   DaemonSet  ──template──▶ weft-agent-<node>,    each in its pod, with a token bound to that pod
//!                   ConfigMap weft-roots ──▶ a file in each agent's pod
//! ```
//!
//! What is a path of a node (cgroup, bpffs, logs of pods) or of a volume (token, roots, state) is the lab's: every such
//! setting is an environment variable that replaces the template's. Agents dial the controllers by the address of a
//! Service of the lab's own, because the lab has no DNS.

use std::ffi::OsString;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::CustomResourceExt;
use lab::{Agent, Controller, Lab, LabBuilder, Pod, Program, SYSTEM_NAMESPACE, TRUST_DOMAIN};
use serde_json::{Value, json};

use crate::player::{self, Container, Player};
use crate::reach::Reach;
use crate::{ApiServer, Objects, Options, block_on, tools};

/// Release names of the two charts.
pub(crate) const RELEASES: [(&str, &str); 2] =
    [("weft-crds", "deploy/charts/mesh-crds"), ("weft", "deploy/charts/mesh")];

/// What the mesh's accounts may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// What the charts grant, which Helm installs.
    #[default]
    Chart,
    /// Everything; no chart is installed, only the definitions of Weft's own kinds.
    Admin,
}

/// A cluster to be described.
#[derive(Debug)]
pub struct ClusterBuilder {
    lab: LabBuilder,
    options: Options,
    access: Access,
    replicas: usize,
    values: Vec<String>,
    without_mesh: bool,
}

/// A cluster: the lab, its API server, and the mesh between them. It is used as the lab is.
#[derive(Debug)]
pub struct Cluster {
    _player: Player,
    reach: Vec<Reach>,
    lab: Lab,
    objects: Arc<Objects>,
    api: Arc<ApiServer>,
}

impl Cluster {
    /// A cluster to be described: with one controller, and what the charts grant.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder {
            lab: Lab::builder(),
            options: Options::default(),
            access: Access::default(),
            replicas: 1,
            values: Vec::new(),
            without_mesh: false,
        }
    }

    /// The API server.
    pub fn api(&self) -> &ApiServer {
        &self.api
    }

    /// The lab's objects in it.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Cuts one controller's way to the API server, or opens it again.
    pub fn set_reachable(&self, replica: usize, reachable: bool) {
        self.reach[replica].set(reachable);
    }

    /// Does what the garbage collector and kubelet do when a release is gone: the mesh's programs are asked to end, then
    /// their pods go.
    pub fn collect(&self) -> Result<()> {
        self.end()?;
        let mut pods =
            self.agents().iter().map(Agent::pod).chain(self.controllers().iter().map(Controller::pod));
        pods.try_for_each(|pod| pod.delete())
    }

    /// Asks the mesh's programs to end; their pods stay, for [`Self::install_again`].
    pub fn end(&self) -> Result<()> {
        for agent in self.agents().iter().filter(|agent| agent.pid().is_some()) {
            agent.stop(Duration::from_secs(30))?;
        }
        for controller in self.controllers().iter().filter(|controller| controller.pid().is_some()) {
            controller.stop(Duration::from_secs(30))?;
        }
        Ok(())
    }

    /// `helm install` of the mesh once more, after an uninstall: its accounts are others, so its tokens are, too; what the
    /// nodes keep is what the agents before left there.
    pub fn install_again(&self) -> Result<()> {
        install(&self.api, &RELEASES[1..], &[])?;
        for (number, controller) in self.controllers().iter().enumerate() {
            let pod = Some((controller.pod().name(), controller.pod().uid()));
            let mounts = self.place().dir().join("mounts").join(format!("controller-{number}"));
            player::write(&mounts.join("token"), &player::token(&self.api, "weft-controller", "", pod)?)?;
        }
        for agent in self.agents() {
            self.renew_token(agent.node())?;
        }
        start_all(&self.lab, false)
    }

    /// Gives an agent's pod a fresh token, as kubelet does.
    pub fn renew_token(&self, node: &str) -> Result<()> {
        let agent = self.agent(node);
        let pod = Some((agent.pod().name(), agent.pod().uid()));
        player::write(agent.token_file(), &player::token(&self.api, "weft-agent", "weft-controller", pod)?)
    }

    /// Takes everything away and says what could not be.
    pub fn stop(self) -> Result<()> {
        let Self { lab, _player, reach, .. } = self;
        drop((_player, reach));
        lab.stop()
    }
}

impl Deref for Cluster {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl ClusterBuilder {
    /// Adds a node.
    #[must_use]
    pub fn node(mut self, name: &str) -> Self {
        self.lab = self.lab.node(name);
        self
    }

    /// The node named last imitates kubelet's systemd cgroup driver.
    #[must_use]
    pub fn systemd_cgroups(mut self) -> Self {
        self.lab = self.lab.systemd_cgroups();
        self
    }

    /// So many controllers, over the nodes in turn.
    #[must_use]
    pub fn replicas(mut self, count: usize) -> Self {
        self.replicas = count;
        self
    }

    /// A value of the chart, as `helm --set` takes it.
    #[must_use]
    pub fn value(mut self, assignment: &str) -> Self {
        self.values.push(assignment.to_owned());
        self
    }

    /// What the mesh's accounts may do.
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Old versions are kept this long, then watches from before get 410 Gone.
    #[must_use]
    pub fn compaction(mut self, interval: Duration) -> Self {
        self.options.compaction = Some(interval);
        self
    }

    /// Starts neither controllers nor agents; they are there to be started one by one.
    #[must_use]
    pub fn without_mesh(mut self) -> Self {
        self.without_mesh = true;
        self
    }

    /// Builds it and waits until every agent knows the world.
    pub fn start(self) -> Result<Cluster> {
        let api = Arc::new(ApiServer::with(self.options)?);
        if !api.is_ours() {
            bail!("a lab's nodes have no place in a cluster that is there: unset WEFT_TEST_KUBECONFIG");
        }
        let objects = Objects::new(api.client()?);
        match self.access {
            Access::Chart => install(&api, &RELEASES, &self.values)?,
            Access::Admin => admit(&objects)?,
        }
        let mut lab = self.lab.without_mesh().objects(objects.clone()).start()?;
        let made = make(&mut lab, &api, &objects, self.access, self.replicas)
            .and_then(|(reach, player)| start_all(&lab, self.without_mesh).map(|()| (reach, player)));
        let (reach, player) = match made {
            Ok(made) => made,
            Err(error) => {
                lab.show_failure(&format!("{error:#}"));
                return Err(error);
            }
        };
        Ok(Cluster { _player: player, reach, lab, objects, api })
    }

    /// Builds it, runs a test in it and takes it away.
    ///
    /// # Panics
    /// If it cannot be built, or the test fails.
    pub fn run(self, test: impl FnOnce(&Cluster) -> Result<()>) {
        let cluster = match self.start() {
            Ok(cluster) => cluster,
            Err(error) => panic!("the cluster did not start: {error:#}"),
        };
        match catch_unwind(AssertUnwindSafe(|| test(&cluster))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let failure = format!("{error:#}");
                cluster.show_failure(&failure);
                panic!("{failure}");
            }
            Err(panic) => {
                let failure = lab::row::message(&*panic);
                cluster.show_failure(failure);
                // As the lab does.
                eprintln!("{failure}");
                resume_unwind(panic);
            }
        }
        if let Err(error) = cluster.stop() {
            panic!("the cluster left something behind: {error:#}");
        }
    }
}

/// How long an API server may take to serve a kind that it has accepted.
const SERVED: Duration = Duration::from_secs(60);

/// `helm install` of charts.
fn install(api: &ApiServer, releases: &[(&str, &str)], values: &[String]) -> Result<()> {
    let domain = format!("meshConfig.trustDomain={TRUST_DOMAIN}");
    for &(release, chart) in releases {
        let chart = tools::workspace().join(chart);
        let mut arguments = vec!["install", release, text_of(&chart)?, "--namespace", SYSTEM_NAMESPACE];
        arguments.push("--create-namespace");
        if release == "weft" {
            arguments.extend(["--set", &domain]);
            arguments.extend(values.iter().flat_map(|value| ["--set", value.as_str()]));
        }
        api.helm(&arguments)?;
        if release == "weft-crds" {
            // An established definition is not always served yet.
            let kinds = ["get", "authorizationpolicies,meshconfigs,nodestates"];
            lab::eventually(SERVED, || api.kubectl(&kinds).map_err(|error| format!("{error:#}")))?;
        }
    }
    Ok(())
}

fn text_of(path: &std::path::Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// Weft's kinds, and everything allowed to its controllers.
fn admit(objects: &Objects) -> Result<()> {
    objects.apply(&serde_json::to_value(mesh_crd::MeshConfig::crd())?)?;
    objects.apply(&serde_json::to_value(mesh_crd::NodeState::crd())?)?;
    objects
        .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM_NAMESPACE}}))?;
    objects.apply(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "weft-controller-admin"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "weft-controller", "namespace": SYSTEM_NAMESPACE}],
    }))?;
    Ok(())
}

/// Makes the mesh's pods, their tokens and files, and the ways to the API server; starts nothing.
fn make(
    lab: &mut Lab,
    api: &Arc<ApiServer>,
    objects: &Objects,
    access: Access,
    replicas: usize,
) -> Result<(Vec<Reach>, Player)> {
    let template = |kind: &str, name: &str| -> Result<Value> {
        match access {
            Access::Admin => Ok(Value::Null),
            Access::Chart => {
                let there = block_on(objects.api("apps/v1", kind, SYSTEM_NAMESPACE)?.get(name))?;
                Ok(there.data["spec"]["template"].clone())
            }
        }
    };
    let nodes: Vec<String> = lab.nodes().iter().map(|node| node.name().to_owned()).collect();
    let mut controllers = Vec::new();
    let mut reach = Vec::new();
    let directory = lab.place().dir().join("mounts");
    let deployment = template("Deployment", "weft-controller")?;
    for number in 0..replicas {
        let pod = lab
            .pod(&format!("{SYSTEM_NAMESPACE}/weft-controller-{number}"))
            .service_account("weft-controller")
            .node(&nodes[number % nodes.len()])
            .label("weft.dev/lab", "controller")
            .start()?;
        reach.push(Reach::new(&pod, api.port())?);
        controllers.push(controller(api, &deployment, pod, directory.join(format!("controller-{number}")))?);
    }
    let service = lab.service(&format!("{SYSTEM_NAMESPACE}/control")).select("weft.dev/lab", "controller");
    let address = format!("{}:15010", service.port(15010, 15010).create()?.v4());
    let daemon_set = template("DaemonSet", "weft-agent")?;
    let mut agents = Vec::new();
    let mut roots = Vec::new();
    for node in &nodes {
        let pod = lab
            .pod(&format!("{SYSTEM_NAMESPACE}/weft-agent-{node}"))
            .service_account("weft-agent")
            .node(node)
            .start()?;
        let mounts = directory.join(format!("agent-{node}"));
        std::fs::create_dir_all(mounts.join("roots"))?;
        roots.push(mounts.join("roots/root.pem"));
        agents.push(agent(lab, api, &daemon_set, pod, mounts, &address)?);
    }
    lab.install_mesh(controllers, agents);
    let player = Player::start(api.clone(), roots, lab.place().logs())?;
    Ok((reach, player))
}

fn start_all(lab: &Lab, without_mesh: bool) -> Result<()> {
    if without_mesh {
        return Ok(());
    }
    for controller in lab.controllers() {
        controller.launch()?;
    }
    for controller in lab.controllers() {
        controller.await_listening()?;
    }
    for agent in lab.agents() {
        agent.launch()?;
    }
    lab.agents().iter().try_for_each(Agent::await_ready)
}

fn controller(api: &ApiServer, template: &Value, pod: Arc<Pod>, mounts: PathBuf) -> Result<Controller> {
    std::fs::create_dir_all(&mounts)?;
    let bound = Some((pod.name(), pod.uid()));
    player::write(&mounts.join("token"), &player::token(api, "weft-controller", "", bound)?)?;
    let kubeconfig = api.kubeconfig_for(pod.name(), &mounts.join("token"))?;
    let Container { arguments, mut environment } = if template.is_null() {
        let fallback = ["--trust-domain", TRUST_DOMAIN].map(OsString::from);
        let arguments =
            [OsString::from(lab::binary("mesh-controller")?)].into_iter().chain(fallback).collect();
        Container {
            arguments,
            environment: pairs(&[
                ("POD_NAMESPACE", SYSTEM_NAMESPACE.into()),
                ("POD_NAME", pod.name().into()),
            ]),
        }
    } else {
        player::container(template, |path| downward(&pod, path))?
    };
    let socket = mounts.join("admin.sock");
    environment.extend(pairs(&[
        ("KUBECONFIG", kubeconfig.into()),
        ("WEFT_ADMIN_SOCKET", socket.clone().into()),
        ("WEFT_STATE_DIR", mounts.clone().into()),
    ]));
    let log = pod.name().to_owned();
    let program = Program { pod, log, arguments, environment, admin_socket: socket };
    Ok(Controller::of(program))
}

fn agent(
    lab: &Lab,
    api: &ApiServer,
    template: &Value,
    pod: Arc<Pod>,
    mounts: PathBuf,
    address: &str,
) -> Result<Agent> {
    let node = pod.node().clone();
    let (token, state, cache) = (mounts.join("token"), mounts.join("run"), mounts.join("cache"));
    for directory in [&state, &cache, &lab.place().bpffs(node.name())] {
        std::fs::create_dir_all(directory)?;
    }
    let bound = Some((pod.name(), pod.uid()));
    player::write(&token, &player::token(api, "weft-agent", "weft-controller", bound)?)?;
    let Container { arguments, mut environment } = if template.is_null() {
        let environment = pairs(&[("NODE_NAME", node.name().into())]);
        Container { arguments: vec![lab::binary("mesh-agent")?.into()], environment }
    } else {
        player::container(template, |path| downward(&pod, path))?
    };
    let socket = mounts.join("agent.sock");
    environment.extend(pairs(&[
        ("WEFT_CONTROLLER", address.into()),
        ("WEFT_TOKEN_FILE", token.clone().into()),
        ("WEFT_ROOT_CERT", mounts.join("roots/root.pem").into()),
        ("WEFT_STATE_DIR", state.clone().into()),
        ("WEFT_CACHE_DIR", cache.into()),
        ("WEFT_SOCKET", socket.clone().into()),
        ("WEFT_CGROUP", node.cgroup().path().into()),
        ("WEFT_BPFFS", lab.place().bpffs(node.name()).into()),
        ("WEFT_HOST_NETNS", node.netns_path().into()),
        ("WEFT_POD_LOGS", node.pod_logs().into()),
    ]));
    let log = pod.name().to_owned();
    Ok(Agent::of(Program { pod, log, arguments, environment, admin_socket: socket }, token, state))
}

fn pairs(of: &[(&str, OsString)]) -> Vec<(OsString, OsString)> {
    of.iter().map(|(key, value)| (key.into(), value.clone())).collect()
}

/// The downward API.
fn downward(pod: &Pod, path: &str) -> String {
    match path {
        "metadata.namespace" => pod.namespace().to_owned(),
        "metadata.name" => pod.name().to_owned(),
        "metadata.uid" => pod.uid().to_owned(),
        "spec.nodeName" => pod.node().name().to_owned(),
        "spec.serviceAccountName" => pod.service_account().to_owned(),
        "status.podIP" => pod.v4().to_string(),
        _ => String::new(),
    }
}
