//! From a description to a lab that runs.

use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::lab::{Lab, World};
use crate::node::{CgroupDriver, Node, NodeWish};
use crate::objects;
use crate::place::{BPFFS, Place};
use crate::store::{Objects, Store};
use crate::{binaries, mesh, netns, node, preflight, row, signals, teardown};

/// Describes a lab. Nodes are connected in the order in which they are named; the controller runs on the first.
#[derive(Debug, Default)]
pub struct LabBuilder {
    nodes: Vec<(String, NodeWish)>,
    without_mesh: bool,
    objects: Option<Arc<dyn Objects>>,
    trust_domain: Option<String>,
}

impl LabBuilder {
    /// Adds a node. Names are short: they are part of interface and namespace names.
    #[must_use]
    pub fn node(mut self, name: &str) -> Self {
        self.nodes.push((name.to_owned(), NodeWish::default()));
        self
    }

    /// The node named last imitates kubelet's systemd cgroup driver.
    #[must_use]
    pub fn systemd_cgroups(mut self) -> Self {
        if let Some((_, wish)) = self.nodes.last_mut() {
            wish.driver = CgroupDriver::Systemd;
        }
        self
    }

    /// The node named last learns its pods' hardware addresses by ARP and neighbour discovery, so that they can be forged.
    /// Not for many hundreds of pods.
    #[must_use]
    pub fn learned_neighbours(mut self) -> Self {
        if let Some((_, wish)) = self.nodes.last_mut() {
            wish.learned_neighbours = true;
        }
        self
    }

    /// Starts neither controller nor agents (they can be started later, one by one).
    #[must_use]
    pub fn without_mesh(mut self) -> Self {
        self.without_mesh = true;
        self
    }

    /// Tells its objects to somebody else than the directory. A mesh that the lab starts itself would learn nothing.
    #[must_use]
    pub fn objects(mut self, instead: Arc<dyn Objects>) -> Self {
        self.objects = Some(instead);
        self
    }

    /// Another trust domain than [`TRUST_DOMAIN`](crate::TRUST_DOMAIN).
    #[must_use]
    pub fn trust_domain(mut self, name: &str) -> Self {
        self.trust_domain = Some(name.to_owned());
        self
    }

    /// Builds the lab and waits until the mesh is up and every agent knows the world.
    pub fn start(self) -> Result<Lab> {
        if self.nodes.is_empty() || self.nodes.len() > 9 {
            bail!("a lab has one to nine nodes, not {}", self.nodes.len());
        }
        let missing = preflight::missing();
        if !missing.is_empty() {
            bail!("no lab on this machine: {}", missing.join("; "));
        }
        preflight::raise_open_files();
        let place = Place::claim()?;
        let guard = start_guard(&place).inspect_err(|_| {
            let _ = teardown::remove(&place);
        })?;
        signals::watch(&place);
        // From here on whatever fails leaves through the guard: dropping its pipe is the word to tear down.
        let mut lab = self.build(&place, guard)?;
        if !self.without_mesh {
            let domain = self.trust_domain.as_deref().unwrap_or(mesh::TRUST_DOMAIN);
            let started = mesh::install(&mut lab, domain).and_then(|()| mesh::start_all(&lab));
            if let Err(error) = started {
                lab.show_failure(&format!("{error:#}"));
                return Err(error);
            }
        }
        Ok(lab)
    }

    /// Builds the lab, runs a test in it and takes it away. A failure is shown with the ends of the mesh's logs.
    ///
    /// # Panics
    /// If the lab cannot be built, or the test fails.
    pub fn run(self, test: impl FnOnce(&Lab) -> Result<()>) {
        let lab = match self.start() {
            Ok(lab) => lab,
            Err(error) => panic!("the lab did not start: {error:#}"),
        };
        match catch_unwind(AssertUnwindSafe(|| test(&lab))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let failure = format!("{error:#}");
                lab.show_failure(&failure);
                panic!("{failure}");
            }
            Err(panic) => {
                let failure = row::message(&*panic);
                lab.show_failure(failure);
                // Once more after the logs: where output is cut, its end is what is kept.
                eprintln!("{failure}");
                resume_unwind(panic);
            }
        }
        if let Err(error) = lab.stop() {
            panic!("the lab left something behind: {error:#}");
        }
    }

    fn build(&self, place: &Place, guard: Child) -> Result<Lab> {
        netns::prepare_directory()?;
        mount_bpffs()?;
        let mut nodes = Vec::new();
        for (number, (name, wish)) in (1..).zip(&self.nodes) {
            nodes.push(Arc::new(Node::create(place, name, number, *wish)?));
        }
        let between = match nodes.as_slice() {
            [] | [_] => None,
            [one, other] => {
                one.connect(other)?;
                None
            }
            more => Some(node::connect_all(place, more.iter().map(|node| &**node))?),
        };
        for (one, other) in nodes.iter().flat_map(|one| nodes.iter().map(move |other| (one, other))) {
            if one.name() != other.name() {
                one.route_to(other)?;
            }
        }
        let world = World::new(place.clone(), Store::new(place.clone(), self.objects.clone()), nodes);
        for node in world.nodes() {
            let object =
                objects::node(node.name(), &[node.v4().into(), node.v6().into()], &node.pod_ranges());
            world.store().put("node", "", node.name(), &object)?;
        }
        world.update_kubeproxy()?;
        Ok(Lab::assemble(world, between, guard))
    }
}

/// Starts the process that tears the lab down when this one ends without having done so, by SIGKILL too.
fn start_guard(place: &Place) -> Result<Child> {
    let program = binaries::binary("weft-lab")?;
    let log = std::fs::File::create(place.logs().join("guard.log"))?;
    Command::new(&program)
        .args(["guard", place.id()])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Out of the reach of the terminal's Ctrl-C.
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {}", program.display()))
}

/// Mounts the BPF file system where it is missing.
fn mount_bpffs() -> Result<()> {
    use nix::mount::{MsFlags, mount};
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mounted = |line: &str| {
        line.split(' ').nth(4) == Some(BPFFS)
            && line.split_once(" - ").is_some_and(|(_, kind)| kind.starts_with("bpf "))
    };
    if mounts.lines().any(mounted) {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), BPFFS, Some("bpf"), flags, Some("mode=700"))
        .with_context(|| format!("mount the BPF file system on {BPFFS}"))
}
