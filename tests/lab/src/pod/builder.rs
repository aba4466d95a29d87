//! From a wish to a pod that runs.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};

use super::{Pod, Status, log_directory};
use crate::cgroup::Cgroup;
use crate::lab::World;
use crate::netns::Netns;
use crate::node::{Attachment, Node};
use crate::objects::{self, PodObject, Words};
use crate::process::Process;
use crate::random;

/// What a Pod object asks for.
#[derive(Clone, Debug)]
pub(crate) struct PodSpec {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) service_account: String,
    pub(crate) runtime_class: String,
    pub(crate) labels: Words,
    pub(crate) annotations: Words,
    pub(crate) qos: Qos,
    pub(crate) v4_only: bool,
    pub(crate) ready: bool,
    /// A static pod's UID in the API, which is not the one on its node.
    pub(crate) mirror_uid: Option<String>,
    /// Whose addresses it gets.
    pub(crate) addresses_of: Option<Attachment>,
}

/// Which of kubelet's directories the pod's cgroup is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Qos {
    /// `kubepods` itself.
    Guaranteed,
    /// `burstable` below it.
    #[default]
    Burstable,
    /// `besteffort` below it.
    BestEffort,
}

/// A pod to be made.
#[derive(Debug)]
pub struct PodBuilder {
    world: Arc<World>,
    key: String,
    node: Option<String>,
    spec: PodSpec,
}

impl PodBuilder {
    pub(crate) fn new(world: Arc<World>, key: &str) -> Self {
        let spec = PodSpec {
            namespace: String::new(),
            name: String::new(),
            service_account: "default".into(),
            runtime_class: String::new(),
            labels: Words::new(),
            annotations: Words::new(),
            qos: Qos::default(),
            v4_only: false,
            ready: true,
            mirror_uid: None,
            addresses_of: None,
        };
        Self { world, key: key.to_owned(), node: None, spec }
    }

    /// The node it runs on; the first otherwise.
    #[must_use]
    pub fn node(mut self, name: &str) -> Self {
        self.node = Some(name.to_owned());
        self
    }

    /// Its service account; `default` otherwise.
    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        self.spec.service_account = name.to_owned();
        self
    }

    /// The RuntimeClass that its object names; what runs it stays the same.
    #[must_use]
    pub fn runtime_class(mut self, name: &str) -> Self {
        self.spec.runtime_class = name.to_owned();
        self
    }

    /// A label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.spec.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// An annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.spec.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Its quality of service class; burstable otherwise.
    #[must_use]
    pub fn qos(mut self, qos: Qos) -> Self {
        self.spec.qos = qos;
        self
    }

    /// Without an IPv6 address.
    #[must_use]
    pub fn v4_only(mut self) -> Self {
        self.spec.v4_only = true;
        self
    }

    /// With the addresses of a pod of the same node whose network is gone, as an address manager that reuses them at once.
    #[must_use]
    pub fn addresses_of(mut self, gone: &Pod) -> Self {
        self.node = Some(gone.node.name().to_owned());
        self.spec.addresses_of = Some(gone.attachment);
        self
    }

    /// From a manifest on the node: the API has a mirror of it, with another UID.
    #[must_use]
    pub fn static_pod(mut self) -> Self {
        self.spec.mirror_uid = Some(String::new());
        self
    }

    /// Not ready: no Service leads to it until `Pod::set_ready`.
    #[must_use]
    pub fn unready(mut self) -> Self {
        self.spec.ready = false;
        self
    }

    /// Starts it, with a process that does nothing.
    pub fn start(self) -> Result<Arc<Pod>> {
        self.schedule()?.start()
    }

    /// Writes the object as the scheduler leaves it: bound to a node, nothing there yet.
    pub fn schedule(mut self) -> Result<ScheduledPod> {
        let (namespace, name) =
            self.key.split_once('/').with_context(|| format!("{:?} is not NAMESPACE/NAME", self.key))?;
        (self.spec.namespace, self.spec.name) = (namespace.to_owned(), name.to_owned());
        let node = match &self.node {
            Some(name) => self.world.node(name)?,
            None => self.world.first_node()?,
        };
        self.world.ensure_namespace(&self.spec.namespace)?;
        let uid = match &mut self.spec.mirror_uid {
            None => random::uuid()?,
            Some(mirror) => {
                *mirror = random::uuid()?;
                // Kubelet's hash of the manifest.
                let hash = random::hex(16)?;
                self.spec.annotations.insert("kubernetes.io/config.hash".into(), hash.clone());
                hash
            }
        };
        let mut pod = ScheduledPod { world: self.world, node, spec: self.spec, uid };
        let object = objects::pod(&PodObject {
            namespace: &pod.spec.namespace,
            name: &pod.spec.name,
            uid: pod.spec.mirror_uid.as_deref().unwrap_or(&pod.uid),
            node: pod.node.name(),
            service_account: &pod.spec.service_account,
            runtime_class: &pod.spec.runtime_class,
            labels: &pod.spec.labels,
            annotations: &pod.spec.annotations,
            addresses: &[],
            phase: "Pending",
            ready: false,
            terminating: false,
        });
        if let Some(uid) = pod.world.store().put("pod", &pod.spec.namespace, &pod.spec.name, &object)? {
            pod.uid = uid;
        }
        Ok(pod)
    }
}

/// A pod that the API knows and of which its node has nothing yet.
#[derive(Debug)]
pub struct ScheduledPod {
    world: Arc<World>,
    node: Arc<Node>,
    spec: PodSpec,
    uid: String,
}

/// Cgroup and network of a pod, before any process.
struct Sandbox {
    cgroup: Cgroup,
    main: Cgroup,
    netns: Netns,
    attachment: Attachment,
}

impl ScheduledPod {
    /// UID, as in the API.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Starts it, with a process that does nothing.
    pub fn start(self) -> Result<Arc<Pod>> {
        let context = format!("start pod {}/{}", self.spec.namespace, self.spec.name);
        let start = || -> Result<Arc<Pod>> {
            let sandbox = self.sandbox()?;
            let pod = self.finish(sandbox);
            pod.start_pause()?;
            pod.world()?.admit(&pod)?;
            Ok(pod)
        };
        start().context(context)
    }

    /// Starts it with this program as its very first process: cgroup and namespace are made, the program is cloned into
    /// both and executed, and nobody tells anything to anybody until it runs.
    pub fn launch(
        self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<(Arc<Pod>, Process)> {
        let context = format!("launch pod {}/{}", self.spec.namespace, self.spec.name);
        let launch = || -> Result<(Arc<Pod>, Process)> {
            let sandbox = self.sandbox()?;
            let pod = self.finish(sandbox);
            let process = pod.spawn(arguments)?;
            pod.world()?.admit(&pod)?;
            Ok((pod, process))
        };
        launch().context(context)
    }

    fn sandbox(&self) -> Result<Sandbox> {
        let qos = match self.spec.qos {
            Qos::Guaranteed => "",
            Qos::Burstable => "burstable",
            Qos::BestEffort => "besteffort",
        };
        let cgroup = Cgroup::create(self.node.pod_cgroup(&self.uid, qos))?;
        std::fs::create_dir_all(log_directory(&self.node, &self.spec, &self.uid))?;
        let name = format!("{}-{}-{}", self.node.netns(), self.spec.namespace, self.spec.name);
        let (netns, attachment) = self.node.attach(&name, self.spec.v4_only, self.spec.addresses_of)?;
        let main = cgroup.child(&self.node.new_container()?)?;
        Ok(Sandbox { cgroup, main, netns, attachment })
    }

    fn finish(self, sandbox: Sandbox) -> Arc<Pod> {
        let status = Status {
            labels: self.spec.labels.clone(),
            annotations: self.spec.annotations.clone(),
            phase: "Running",
            ready: self.spec.ready,
            terminating: false,
        };
        Arc::new(Pod {
            world: Arc::downgrade(&self.world),
            spec: self.spec,
            uid: self.uid,
            node: self.node,
            attachment: sandbox.attachment,
            netns: sandbox.netns,
            cgroup: sandbox.cgroup,
            main: sandbox.main,
            pause: Mutex::new(None),
            status: Mutex::new(status),
        })
    }
}
