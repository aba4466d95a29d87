//! The lab that everything is measured in.
//!
//! ```text
//!   node a                        node b
//!   ├ bench-mesh/client           ├ bench-mesh/far      enrolled
//!   ├ bench-mesh/near
//!   ├ bench-direct/client         ├ bench-direct/far    not enrolled: same nodes, same links, same programs
//!   ├ bench-direct/near
//!   ├ agent, controller           ├ agent
//!   ├ bench-yardstick/client      ├ bench-yardstick/far    with --yardstick; not enrolled, each with a HAProxy
//!   └ with --pin: core 0          └ with --pin: core 1
//! ```
//!
//! On the path `outside` both clients dial bench-direct/far: what differs is the client alone.
//! Programs dial the pods' own addresses, so that no kube-proxy is on either side. A further kind of relay to compare with
//! is a further [`Pair`], with its own pods and `relays`.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::programs::{self, Server};
use lab::{Agent, Lab, Pod};

use crate::window::WRK_SCRIPT;
use crate::works::{PATHS, Path};
use crate::yardstick::Yardstick;
use crate::{cpu, pin};

/// Kubernetes namespace of the enrolled pods.
pub const MESH_NAMESPACE: &str = "bench-mesh";
/// Kubernetes namespace of the others.
pub const DIRECT_NAMESPACE: &str = "bench-direct";
/// Kubernetes namespace of the pods with a HAProxy.
pub const YARDSTICK_NAMESPACE: &str = "bench-yardstick";
/// iperf3's own.
pub const IPERF_PORT: u16 = 5201;
/// `weft-load`, for requests and idle connections.
pub const ECHO_PORT: u16 = 7000;
/// `weft-load`, for connections.
pub const CLOSE_PORT: u16 = 7001;
/// nginx.
pub const HTTP_PORT: u16 = 8080;
/// What nginx serves: 1 KiB.
pub const HTTP_FILE: &str = "kilobyte";
/// Every port that a server listens on.
const PORTS: [u16; 4] = [IPERF_PORT, ECHO_PORT, CLOSE_PORT, HTTP_PORT];
/// How long programs that were killed take to let go of their ports.
const PATIENCE: Duration = Duration::from_secs(10);

/// Everything that is up.
#[derive(Debug)]
pub struct Stage {
    /// Programs before the lab, so that they end first.
    direct: Pair,
    weft: Pair,
    beside: Option<(Yardstick, Pair)>,
    lab: Lab,
    pinned: bool,
    with_mesh: bool,
}

/// A client and its servers, all in the mesh or all outside.
#[derive(Debug)]
pub struct Pair {
    /// On node a.
    pub client: Arc<Pod>,
    /// On node b.
    far: ServerPod,
    /// On node a; there is none in the pair of the yardstick.
    near: Option<ServerPod>,
    /// Where clients dial that do not dial the server itself.
    dialled: Option<Ipv4Addr>,
    /// On node b and outside the mesh, whichever pair this is.
    outside: Option<Ipv4Addr>,
    /// Cgroups of what stands between them: the agents, the yardstick's processes, or nothing.
    pub relays: Vec<PathBuf>,
}

/// A pod with all servers.
#[derive(Debug)]
pub struct ServerPod {
    pod: Arc<Pod>,
    core: Option<usize>,
    servers: Vec<Server>,
}

/// Which pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Outside the mesh.
    Direct,
    /// In the mesh.
    Weft,
    /// Outside the mesh, behind a pair of HAProxy.
    Yardstick,
}

impl Stage {
    /// Starts the lab, the mesh, the pods and the servers, and waits for all of them.
    pub fn start(pinned: bool, with_mesh: bool, with_yardstick: bool) -> Result<Self> {
        if pinned && pin::cores() < 2 {
            bail!("--pin needs two cores, one for each node; this process may use {}", pin::cores());
        }
        let builder = Lab::builder().node("a").node("b");
        let builder = if with_mesh { builder } else { builder.without_mesh() };
        let lab = builder.start().context("start the lab")?;
        std::fs::write(lab.place().dir().join("wrk.lua"), WRK_SCRIPT).context("write wrk's script")?;
        if with_mesh {
            if pinned {
                restart_on_cores(&lab)?;
            }
            lab.namespace(MESH_NAMESPACE).captured()?;
        }
        let mut direct = Pair::start(&lab, pinned, DIRECT_NAMESPACE, &PATHS)?;
        let mut weft = Pair::start(&lab, pinned, MESH_NAMESPACE, &PATHS)?;
        (direct.outside, weft.outside) = (Some(direct.far.pod.v4()), Some(direct.far.pod.v4()));
        let beside = with_yardstick.then(|| start_yardstick(&lab, pinned)).transpose()?;
        if with_mesh {
            weft.await_enrolled(&lab)?;
            direct.await_excluded(&lab)?;
            if let Some((_, pair)) = &beside {
                pair.await_excluded(&lab)?;
            }
            weft.relays = agents_cgroups(&lab)?;
        }
        Ok(Self { direct, weft, beside, lab, pinned, with_mesh })
    }

    /// The pods of a side.
    pub fn pair(&self, side: Side) -> Result<&Pair> {
        Ok(match side {
            Side::Direct => &self.direct,
            Side::Weft => &self.weft,
            Side::Yardstick => &self.beside.as_ref().context("no yardstick was started")?.1,
        })
    }

    /// The yardstick, if there is one.
    pub fn yardstick(&self) -> Option<&Yardstick> {
        self.beside.as_ref().map(|(yardstick, _)| yardstick)
    }

    /// Starts all servers anew: after a failure they may be in any state.
    pub fn restart_servers(&mut self) -> Result<()> {
        let pairs = [&mut self.direct, &mut self.weft].into_iter();
        for pair in pairs.chain(self.beside.as_mut().map(|(_, pair)| pair)) {
            for server in [&mut pair.far].into_iter().chain(&mut pair.near) {
                server.stop()?;
                server.start()?;
            }
        }
        Ok(())
    }

    /// Starts the agents anew in a way of one's own, on their cores, and waits until they carry connections.
    pub fn relaunch_agents(&mut self, mut launch: impl FnMut(&Agent) -> Result<()>) -> Result<()> {
        for agent in self.lab.agents() {
            agent.kill();
            self.on_core_of(agent.node(), || launch(agent))?;
        }
        self.lab.agents().iter().try_for_each(Agent::await_ready)?;
        self.weft.await_enrolled(&self.lab)?;
        self.weft.relays = agents_cgroups(&self.lab)?;
        Ok(())
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Whether the second pair really is in a mesh.
    pub fn with_mesh(&self) -> bool {
        self.with_mesh
    }

    /// The agents at both ends of a path.
    pub fn agents(&self, path: Path) -> [&Agent; 2] {
        match path {
            Path::CrossNode | Path::Outside => [self.lab.agent("a"), self.lab.agent("b")],
            Path::SameNode => [self.lab.agent("a"); 2],
        }
    }

    /// Starts something where clients run.
    pub fn on_client_core<T>(&self, start: impl FnOnce() -> Result<T>) -> Result<T> {
        self.on_core_of("a", start)
    }

    /// Starts something where programs of a node run.
    pub fn on_core_of<T>(&self, node: &str, start: impl FnOnce() -> Result<T>) -> Result<T> {
        pin::on_core(core(self.pinned, node), start)
    }

    /// Path of `weft-load`.
    pub fn load_program(&self) -> Result<String> {
        load_program()
    }

    /// Path of [`WRK_SCRIPT`].
    pub fn wrk_script(&self) -> Result<String> {
        text(self.lab.place().dir().join("wrk.lua"))
    }

    /// Takes everything away.
    pub fn stop(self) -> Result<()> {
        drop((self.direct, self.weft, self.beside));
        self.lab.stop()
    }
}

/// The mesh's programs size themselves by the cores that they find, so they are started where they are to run.
fn restart_on_cores(lab: &Lab) -> Result<()> {
    pin::on_core(core(true, "a"), || lab.controller().restart())?;
    for agent in lab.agents() {
        pin::on_core(core(true, agent.node()), || agent.restart())?;
    }
    Ok(())
}

fn agents_cgroups(lab: &Lab) -> Result<Vec<PathBuf>> {
    let pid = |agent: &Agent| agent.pid().context("an agent that does not run");
    lab.agents().iter().map(|agent| cpu::cgroup_of(pid(agent)?)).collect()
}

/// A pair of pods outside the mesh with a HAProxy in each, across nodes alone.
fn start_yardstick(lab: &Lab, pinned: bool) -> Result<(Yardstick, Pair)> {
    let mut pair = Pair::start(lab, pinned, YARDSTICK_NAMESPACE, &[Path::CrossNode])?;
    let yardstick = Yardstick::start(&pair.client, &pair.far.pod, &PORTS, |node, start| {
        pin::on_core(core(pinned, node), start)
    });
    let yardstick = yardstick.context("start the yardstick")?;
    pair.dialled = Some(pair.client.v4());
    pair.relays = yardstick.cgroups()?;
    Ok((yardstick, pair))
}

fn core(pinned: bool, node: &str) -> Option<usize> {
    pinned.then_some(usize::from(node != "a"))
}

fn load_program() -> Result<String> {
    text(lab::binary("weft-load")?)
}

fn text(path: PathBuf) -> Result<String> {
    path.into_os_string().into_string().ok().context("a path that is not UTF-8")
}

impl Pair {
    fn start(lab: &Lab, pinned: bool, namespace: &str, paths: &[Path]) -> Result<Self> {
        let pod = |name: &str, node: &str| -> Result<Arc<Pod>> {
            let builder = lab.pod(&format!("{namespace}/{name}")).label("app", name).node(node);
            pin::on_core(core(pinned, node), || builder.start())
        };
        let server = |name: &str, node: &str| -> Result<ServerPod> {
            let mut server =
                ServerPod { pod: pod(name, node)?, core: core(pinned, node), servers: Vec::new() };
            server.start()?;
            Ok(server)
        };
        Ok(Self {
            client: pod("client", "a")?,
            far: server("far", "b")?,
            near: paths.contains(&Path::SameNode).then(|| server("near", "a")).transpose()?,
            dialled: None,
            outside: None,
            relays: Vec::new(),
        })
    }

    /// The address that clients dial to reach the server at the end of a path.
    pub fn address(&self, path: Path) -> Result<String> {
        let server = match path {
            Path::CrossNode => self.dialled.unwrap_or_else(|| self.far.pod.v4()),
            Path::SameNode => self.near.as_ref().context("no server on the same node")?.pod.v4(),
            Path::Outside => self.outside.context("no server outside the mesh")?,
        };
        Ok(server.to_string())
    }

    fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        [&self.client, &self.far.pod].into_iter().chain(self.near.as_ref().map(|near| &near.pod))
    }

    fn await_enrolled(&self, lab: &Lab) -> Result<()> {
        for pod in self.pods() {
            lab.await_captured(pod)?;
            lab.await_peers_tunnel(pod)?;
        }
        Ok(())
    }

    fn await_excluded(&self, lab: &Lab) -> Result<()> {
        self.pods().try_for_each(|pod| lab.await_excluded(pod))
    }
}

impl ServerPod {
    fn start(&mut self) -> Result<()> {
        let pod = &self.pod;
        let (iperf, echo, close) = (IPERF_PORT.to_string(), ECHO_PORT.to_string(), CLOSE_PORT.to_string());
        let load = load_program()?;
        self.servers = pin::on_core(self.core, || {
            Ok(vec![
                programs::start(pod, pod.command(["iperf3", "-s", "-p", &iperf])?, IPERF_PORT)?,
                programs::start(
                    pod,
                    pod.command([&load, "serve", "--echo", &echo, "--close", &close])?,
                    CLOSE_PORT,
                )?,
                programs::nginx(pod).port(HTTP_PORT).file(HTTP_FILE, vec![b'x'; 1024]).start()?,
            ])
        })?;
        Ok(())
    }

    /// Kills the servers and waits until their ports are free.
    fn stop(&mut self) -> Result<()> {
        self.servers.clear();
        lab::eventually(PATIENCE, || {
            let ports = self.pod.listening_ports().map_err(|error| format!("{error:#}"))?;
            match ports.iter().find(|port| PORTS.contains(port)) {
                Some(port) => Err(format!("port {port} of {} is still taken", self.pod.key())),
                None => Ok(()),
            }
        })
    }
}
