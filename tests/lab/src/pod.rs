//! Pods: what kubelet, the container runtime and the CNI plugin would have made of a Pod object.
//!
//! ```text
//!   object (Pending) ─▶ cgroup ─▶ log directory ─▶ namespace, veth, addresses ─▶ pause, programs ─▶ object (Running)
//!   └ ScheduledPod ──┘ └──────────────── start, or launch for a program that is the first process ───────────────┘
//! ```
//!
//! That order is kubelet's: the API knows of a pod before its cgroup is there, and its addresses become known last.

use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cgroup::Cgroup;
use crate::eventually;
use crate::lab::World;
use crate::netns::Netns;
use crate::node::{Attachment, Node};
use crate::objects::{self, PodObject, Words};
use crate::process::{Command, Output, Process, Site};
use crate::service::ServiceSpec;
use crate::sockets::{self, Task};

mod builder;
mod sandbox;

pub(crate) use builder::PodSpec;
pub use builder::{PodBuilder, Qos, ScheduledPod};

/// A pod that was started.
#[derive(Debug)]
pub struct Pod {
    /// Weak, because the lab holds its pods.
    world: Weak<World>,
    spec: PodSpec,
    uid: String,
    node: Arc<Node>,
    attachment: Attachment,
    netns: Netns,
    /// The pod's own cgroup, above its containers'.
    cgroup: Cgroup,
    /// The container that commands run in.
    main: Cgroup,
    /// Holds the pod as long as nothing else runs in it.
    pause: Mutex<Option<Process>>,
    /// What the API says and may change.
    status: Mutex<Status>,
}

#[derive(Clone, Debug)]
struct Status {
    labels: Words,
    annotations: Words,
    phase: &'static str,
    ready: bool,
    terminating: bool,
}

impl Pod {
    /// Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.spec.namespace
    }

    /// Name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// UID, as in the name of its cgroup and, but for a static pod, in the API.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The node it runs on.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Service account.
    pub fn service_account(&self) -> &str {
        &self.spec.service_account
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        self.attachment.v4
    }

    /// Its IPv6 address.
    ///
    /// # Panics
    /// If the pod was made with `v4_only`.
    pub fn v6(&self) -> Ipv6Addr {
        let Some(address) = self.attachment.v6 else { panic!("{} has no IPv6 address", self.key()) };
        address
    }

    /// All its addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.attachment.addresses().collect()
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The cgroup of the container that commands run in.
    pub(crate) fn container(&self) -> &Cgroup {
        &self.main
    }

    /// Name of its network namespace for `ip netns exec`.
    pub fn netns(&self) -> &str {
        self.netns.name()
    }

    /// File of its network namespace.
    pub fn netns_path(&self) -> PathBuf {
        self.netns.path()
    }

    /// Its interface on the node's side.
    pub fn interface(&self) -> String {
        Node::pod_interface(&self.attachment)
    }

    /// A new or old directory for files of a program in the pod; it goes with the lab.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.world()?.place().dir().join("pods").join(self.uid()).join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    /// `NAMESPACE/NAME`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.spec.namespace, self.spec.name)
    }

    /// The command by which a person enters the pod, cgroup and all.
    pub fn enter(&self) -> String {
        format!(
            "sh -c 'echo $$ > {}/cgroup.procs && exec nsenter --net={} bash'",
            self.main.path().display(),
            self.netns.path().display()
        )
    }

    /// A program to run in the pod.
    pub fn command(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Command> {
        Ok(Command::new(self.site(Some(self.main.clone()))?, arguments))
    }

    /// Runs a program in the pod to its end (30 s at most). [`Output::ok`] makes a failure an error.
    pub fn exec(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Output> {
        self.command(arguments)?.run()
    }

    /// Starts a program in the pod; it is killed when the handle goes, or with the pod.
    pub fn spawn(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Process> {
        self.command(arguments)?.spawn()
    }

    /// A program in a new container of the pod, with a cgroup of its own (a restarted container, say).
    pub fn command_in_new_container(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Command> {
        let container = self.cgroup.child(&self.node.new_container()?)?;
        Ok(Command::new(self.site(Some(container))?, arguments))
    }

    /// A program in the pod's network namespace alone, as `ip netns exec` on the node: its cgroup is the node's.
    pub fn run_in_namespace_only(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Command> {
        let outside = self.node.cgroup().child("system.slice")?;
        Ok(Command::new(self.site(Some(outside))?, arguments))
    }

    /// Runs `inside` on a thread in the pod's network namespace. The thread stays in the test's cgroup: sockets it opens
    /// are *outside every cgroup hook of the node*, so this is for looking (`/proc/thread-self/net`, raw captures) and for
    /// un-meshed traffic. For sockets that are the pod's own, use [`Pod::connect`] and [`Pod::listen`].
    pub fn netns_thread<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        self.netns.enter(inside)
    }

    /// Connects from the pod: the socket is of its cgroup and namespace, and so is the process that called connect(2).
    /// The inner error is connect(2)'s own, `TimedOut` if it took longer than `timeout`.
    pub fn connect(&self, to: SocketAddr, timeout: Duration) -> Result<io::Result<TcpStream>> {
        let opened = sockets::open(self.main.open()?.as_fd(), self.netns.fd(), to, Task::Connect(timeout))?;
        Ok(match opened {
            // What connect(2) says when SO_SNDTIMEO has passed.
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                Err(io::ErrorKind::TimedOut.into())
            }
            other => other.map(TcpStream::from),
        })
    }

    /// Listens in the pod. The inner error is bind(2)'s or listen(2)'s.
    pub fn listen(&self, at: SocketAddr) -> Result<io::Result<TcpListener>> {
        let opened = sockets::open(self.main.open()?.as_fd(), self.netns.fd(), at, Task::Listen)?;
        Ok(opened.map(TcpListener::from))
    }

    /// Waits until something listens on a TCP port in the pod's namespace, without connecting to it.
    pub fn await_listening(&self, port: u16, deadline: Duration) -> Result<()> {
        eventually(deadline, || {
            let listening = self.listening_ports().map_err(|error| format!("{error:#}"))?;
            if listening.contains(&port) {
                Ok(())
            } else {
                Err(format!("ports with listeners: {listening:?}"))
            }
        })
        .with_context(|| format!("wait for port {port} of {}", self.key()))
    }

    /// Ports with a TCP listener in the pod's namespace.
    pub fn listening_ports(&self) -> Result<Vec<u16>> {
        self.netns_thread(|| {
            let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
            let text: String = tables.iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect();
            let mut ports: Vec<u16> = text.lines().filter_map(listening_port).collect();
            ports.sort_unstable();
            ports.dedup();
            ports
        })
    }

    /// Sets or takes away a label.
    pub fn set_label(&self, key: &str, value: Option<&str>) -> Result<()> {
        change(&mut self.status().labels, key, value);
        self.publish()
    }

    /// Sets or takes away an annotation.
    pub fn set_annotation(&self, key: &str, value: Option<&str>) -> Result<()> {
        change(&mut self.status().annotations, key, value);
        self.publish()
    }

    /// Sets readiness: whether Services count it in.
    pub fn set_ready(&self, ready: bool) -> Result<()> {
        self.status().ready = ready;
        self.publish()
    }

    /// Sets the phase (`Running`, `Succeeded`, `Failed`).
    pub fn set_phase(&self, phase: &'static str) -> Result<()> {
        self.status().phase = phase;
        self.publish()
    }

    /// Gives it a deletion timestamp; it runs on and is no endpoint any more.
    pub fn mark_terminating(&self) -> Result<()> {
        self.status().terminating = true;
        self.publish()
    }

    /// Ends it as kubelet does: deletion timestamp, processes killed, network and cgroup away, object away.
    pub fn delete(&self) -> Result<()> {
        self.mark_terminating()?;
        self.destroy()?;
        self.world()?.forget_pod(self)
    }

    /// Kills its processes and takes its network and cgroup away; the object stays.
    pub fn destroy(&self) -> Result<()> {
        let context = || format!("end {}", self.key());
        self.cgroup.kill(Duration::from_secs(10)).with_context(context)?;
        self.pause.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Its interface may be gone already: with the namespace, or taken away by a test.
        let _ = self.node.detach(&self.attachment);
        self.netns.unname().with_context(context)?;
        self.cgroup.remove().with_context(context)?;
        // Like kubelet, which keeps the logs of a dead pod for a while, but not for ever.
        let _ = std::fs::remove_dir_all(log_directory(&self.node, &self.spec, &self.uid));
        Ok(())
    }

    /// Whether a Service leads to it.
    pub(crate) fn serves(&self, service: &ServiceSpec) -> bool {
        let status = self.status();
        status.ready
            && !status.terminating
            && status.phase == "Running"
            && self.spec.namespace == service.namespace
            && !service.selector.is_empty()
            && service.selector.iter().all(|(key, value)| status.labels.get(key) == Some(value))
    }

    pub(crate) fn object(&self) -> String {
        let status = self.status();
        objects::pod(&PodObject {
            namespace: &self.spec.namespace,
            name: &self.spec.name,
            uid: self.spec.mirror_uid.as_deref().unwrap_or(&self.uid),
            node: self.node.name(),
            service_account: &self.spec.service_account,
            runtime_class: &self.spec.runtime_class,
            labels: &status.labels,
            annotations: &status.annotations,
            addresses: &self.addresses(),
            phase: status.phase,
            ready: status.ready,
            terminating: status.terminating,
        })
    }

    fn publish(&self) -> Result<()> {
        self.world()?.put_pod(self)
    }

    fn world(&self) -> Result<Arc<World>> {
        self.world.upgrade().context("the lab is gone")
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn site(&self, cgroup: Option<Cgroup>) -> Result<Site> {
        Ok(Site {
            cgroup,
            netns: Some(self.netns.fd().try_clone_to_owned()?),
            name: self.key(),
            logs: self.world()?.place().logs(),
            enter: self.enter(),
        })
    }
}

/// Where kubelet has a pod's logs: from their names an agent knows pods of its node without a controller.
fn log_directory(node: &Node, spec: &PodSpec, uid: &str) -> PathBuf {
    node.pod_logs().join(format!("{}_{}_{uid}", spec.namespace, spec.name))
}

fn change(words: &mut Words, key: &str, value: Option<&str>) {
    match value {
        Some(value) => words.insert(key.to_owned(), value.to_owned()),
        None => words.remove(key),
    };
}

/// The local port of a line of `/proc/net/tcp` whose socket listens (state 0A).
fn listening_port(line: &str) -> Option<u16> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = fields.next()?;
    (fields.nth(1)? == "0A").then_some(())?;
    u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()
}
