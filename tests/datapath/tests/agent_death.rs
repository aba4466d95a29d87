//! Promise: without its agent a captured pod is cut off from the mesh, never bare; with the agent back it works again. What is
//! outside the mesh it reaches all the same. The controller's death is nobody's business.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use datapath::hammer::Hammer;
use datapath::held::Held;
use datapath::kept;
use lab::row::Table;
use lab::{Lab, Pod, Service, eventually, programs};
use serde_json::Value;

const PORT: u16 = 7000;
const STEP: Duration = Duration::from_secs(5);
/// An agent that was killed must carry connections again so soon after its start.
const BACK: Duration = Duration::from_secs(10);
/// Connections tried per destination while something is dead.
const TRIES: usize = 20;

/// Two captured pods on two nodes and two that are outside.
struct Shop {
    client: Arc<Pod>,
    web: Arc<Pod>,
    service: Service,
    outside: Arc<Pod>,
    far_outside: Arc<Pod>,
    _servers: Vec<programs::Server>,
}

impl Shop {
    fn open(lab: &Lab) -> Result<Self> {
        lab.namespace("shop").captured()?;
        let client = lab.pod("shop/client").node("a").service_account("client").start()?;
        let web = lab.pod("shop/web").node("b").service_account("web").label("app", "web").start()?;
        let outside = lab.pod("plain/client").node("a").start()?;
        let far_outside = lab.pod("plain/server").node("b").start()?;
        let mut servers = Vec::new();
        for pod in [&client, &web, &far_outside] {
            servers.push(programs::peer(pod, "echo", PORT, &[])?);
        }
        let service = lab.service("shop/web").port(80, PORT).select("app", "web").create()?;
        for pod in [&client, &web] {
            lab.await_captured(pod)?;
            lab.await_peers_tunnel(pod)?;
            // Who comes after a dead agent begins with what that one kept.
            for agent in lab.agents() {
                kept::await_tunnel(agent, pod)?;
                kept::await_service(agent, "shop/web")?;
            }
        }
        for pod in [&outside, &far_outside] {
            lab.await_excluded(pod)?;
        }
        Ok(Self { client, web, service, outside, far_outside, _servers: servers })
    }

    /// Everything that the captured client may dial.
    fn destinations(&self) -> [(&'static str, SocketAddr); 5] {
        [
            ("the service", SocketAddr::new(self.service.v4().into(), 80)),
            ("the service, IPv6", SocketAddr::new(self.service.v6().into(), 80)),
            ("the pod", SocketAddr::new(self.web.v4().into(), PORT)),
            ("the pod, IPv6", SocketAddr::new(self.web.v6().into(), PORT)),
            ("a pod outside the mesh", SocketAddr::new(self.far_outside.v4().into(), PORT)),
        ]
    }

    fn to_web(&self) -> SocketAddr {
        SocketAddr::new(self.web.v4().into(), PORT)
    }

    /// Nothing of the captured pods is dialled in plaintext while `meanwhile` goes on.
    fn nothing_in_plaintext<T>(&self, lab: &Lab, meanwhile: impl FnOnce() -> Result<T>) -> Result<T> {
        let wire = lab.capture_wire_with("b", &format!("tcp port {PORT}"), 128)?;
        let outcome = meanwhile();
        let pcap = wire.stop()?;
        let (own, web) = (self.client.addresses(), self.web.addresses());
        let of_mesh = |src: IpAddr, dst: IpAddr| own.contains(&src) || web.contains(&dst);
        let segments = pcap.segments();
        let syns = segments.iter().filter(|it| it.is_syn() && of_mesh(it.src.ip(), it.dst.ip()));
        let syns: Vec<String> = syns.map(|it| format!("{} to {}", it.src, it.dst)).collect();
        let outcome = outcome?;
        ensure!(syns.is_empty(), "of the captured client, or to the captured server, on the wire: {syns:?}");
        Ok(outcome)
    }
}

/// All tries are refused by connect(2) itself.
fn refused(pod: &Pod, to: SocketAddr) -> Result<()> {
    for number in 0..TRIES {
        match pod.connect(to, STEP)? {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            other => bail!("try {number} from {} to {to}: {other:?}", pod.key()),
        }
    }
    Ok(())
}

/// All tries end in a reset before the first byte, at connect(2) or after it.
fn reset(pod: &Pod, to: SocketAddr) -> Result<usize> {
    let mut late = 0;
    for number in 0..TRIES {
        let mut stream = match pod.connect(to, STEP)? {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                late += 1;
                continue;
            }
            Err(error) => bail!("try {number} to {to}: {error}"),
        };
        stream.set_read_timeout(Some(STEP))?;
        match stream.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => late += 1,
            other => bail!("try {number} to {to}: read {other:?}"),
        }
    }
    Ok(late)
}

#[test]
fn a_dead_agent_is_a_refusal() {
    if !lab::ready("a_dead_agent_is_a_refusal") {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new("a_dead_agent_is_a_refusal");
        let shop = Shop::open(lab)?;
        let far_plain = SocketAddr::new(shop.far_outside.v4().into(), PORT);
        let load = Hammer::start(&shop.outside, far_plain, 100)?;
        let mut untouched = Held::open(&shop.outside, far_plain)?;
        let mut left = Held::open(&shop.client, far_plain)?;
        Held::open(&shop.client, shop.to_web())?.ensure_mtls(lab.agent("a"))?;
        lab.agent("a").kill();
        for (name, to) in shop.destinations().into_iter().filter(|(_, to)| *to != far_plain) {
            table.row(&format!("dead: {name} is refused"), || {
                shop.nothing_in_plaintext(lab, || refused(&shop.client, to))?;
                Ok(format!("{TRIES} of {TRIES} ECONNREFUSED, 0 SYNs in plaintext"))
            });
        }
        table.row("dead: a pod outside the mesh is reached", || {
            let mut held = Held::open(&shop.client, far_plain)?;
            held.speak().map(|()| "it needs no agent".to_owned())
        });
        let arrivals = [
            ("in plaintext", &shop.far_outside, SocketAddr::new(shop.client.v4().into(), PORT)),
            ("in plaintext, IPv6", &shop.far_outside, SocketAddr::new(shop.client.v6().into(), PORT)),
            ("from a captured pod", &shop.web, SocketAddr::new(shop.client.v4().into(), PORT)),
            ("from the same node", &shop.outside, SocketAddr::new(shop.client.v4().into(), PORT)),
        ];
        for (name, from, to) in arrivals {
            table.row(&format!("dead: what arrives {name} is reset"), || {
                let late = reset(from, to)?;
                Ok(format!("{TRIES} of {TRIES}, {late} of them after connect(2)"))
            });
        }
        let born = ["shop/born", "plain/born"].map(|key| (key, lab.pod(key).node("a")));
        let mut pods = Vec::new();
        for (key, pod) in born {
            table.row(&format!("dead: {key} is refused from its first instruction on"), || {
                shop.nothing_in_plaintext(lab, || {
                    let line = ["weft-lab-peer", "first-instruction", &shop.to_web().to_string()];
                    let (pod, process) = pod.schedule()?.launch(line)?;
                    let seen: Value = process.wait(STEP)?.ok()?.json()?;
                    pods.push(pod);
                    let refusals = seen["refusals"].as_array().map_or(&[][..], Vec::as_slice);
                    let all = refusals.iter().all(|refusal| refusal["errno"] == "ECONNREFUSED");
                    ensure!(seen["connected"] == false && all && refusals.len() > 10, "{seen}");
                    Ok(format!("{} of {} ECONNREFUSED", refusals.len(), refusals.len()))
                })
            });
        }
        // What keeps them alive.
        let _sleepers =
            pods.iter().map(|pod| pod.spawn(["weft-lab-peer", "pause"])).collect::<Result<Vec<_>>>()?;
        let start = Instant::now();
        lab.agent("a").launch()?;
        for (name, to) in shop.destinations() {
            table.row(&format!("back: {name} is reached"), || {
                shop.nothing_in_plaintext_but(lab, to, || {
                    eventually(BACK, || Held::open(&shop.client, to).map_err(|error| format!("{error:#}")))
                })?;
                Ok(format!("at {:.1?} after the start at the latest", start.elapsed()))
            });
        }
        table.row("back: what arrives is delivered", || {
            lab.await_captured(&shop.client)?;
            let to = SocketAddr::new(shop.client.v4().into(), PORT);
            Held::open(&shop.web, to)?.ensure_mtls(lab.agent("a"))?;
            Held::open(&shop.far_outside, to)?;
            Ok(String::new())
        });
        table.row("back: what was born meanwhile is taken in, or left alone", || {
            let [captured, excluded] = pods.as_slice() else { bail!("{} pods", pods.len()) };
            lab.await_captured(captured)?;
            lab.await_excluded(excluded)?;
            Held::open(captured, shop.to_web())?.ensure_mtls(lab.agent("a"))?;
            Held::open(excluded, far_plain)?.ensure_untouched(lab.agent("a"))?;
            Ok(format!("{:.1?} after the start", start.elapsed()))
        });
        let tally = load.stop()?;
        table.row("all the while connections to and from outside the mesh noticed nothing: 0 failed", || {
            untouched.speak()?;
            left.speak()?;
            tally.none_failed()
        });
        table.finish();
        Ok(())
    });
}

impl Shop {
    /// The same, where passing plaintext on is right: to what is outside the mesh.
    fn nothing_in_plaintext_but<T>(
        &self,
        lab: &Lab,
        to: SocketAddr,
        meanwhile: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if self.far_outside.addresses().contains(&to.ip()) {
            return meanwhile();
        }
        self.nothing_in_plaintext(lab, meanwhile)
    }
}

#[test]
fn a_dead_controller_is_not_noticed() {
    if !lab::ready("a_dead_controller_is_not_noticed") {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new("a_dead_controller_is_not_noticed");
        let shop = Shop::open(lab)?;
        let mut held = Held::open(&shop.client, shop.to_web())?;
        let load = Hammer::start(&shop.client, SocketAddr::new(shop.service.v4().into(), 80), 100)?;
        let through_a_tunnel = |agent: &str| -> Result<()> {
            Held::open(&shop.client, shop.to_web())?.ensure_mtls(lab.agent(agent))
        };
        lab.controller().kill();
        let disconnected = |agent: &lab::Agent, wanted: bool| {
            eventually(Duration::from_secs(20), || {
                let status = agent.status().map_err(|error| format!("{error:#}"))?;
                let connected = status["controller"]["connected"] == true;
                if connected != wanted { Ok(()) } else { Err(status["controller"].to_string()) }
            })
        };
        table.row("dead: running pods go on connecting through tunnels", || {
            lab.agents().iter().try_for_each(|agent| disconnected(agent, true))?;
            shop.nothing_in_plaintext(lab, || (0..TRIES).try_for_each(|_| through_a_tunnel("b")))?;
            held.speak()?;
            Ok(format!("{TRIES} of {TRIES} mtls"))
        });
        table.row("started again: what was hbone stays hbone", || {
            lab.controller().start()?;
            let start = Instant::now();
            shop.nothing_in_plaintext(lab, || {
                let mut looks = 0;
                let mut connected = false;
                while !connected || start.elapsed() < Duration::from_secs(2) {
                    ensure!(start.elapsed() < Duration::from_secs(20), "the agents do not come back");
                    connected = true;
                    for agent in lab.agents() {
                        connected &= agent.status()?["controller"]["connected"] == true;
                        let workloads = agent.workloads()?;
                        let web = workloads.iter().find(|row| row["uid"] == shop.web.uid());
                        ensure!(web.is_some_and(|row| row["tunnel"] == "hbone"), "{}: {web:?}", agent.node());
                    }
                    through_a_tunnel("a")?;
                    looks += 1;
                }
                Ok(format!("{looks} looks, all hbone, all mtls"))
            })
        });
        table.row("started again: changes are followed", || {
            let late = lab.pod("shop/late").node("a").service_account("late").start()?;
            lab.await_captured(&late)?;
            Held::open(&late, shop.to_web())?.ensure_mtls(lab.agent("a"))?;
            Ok("a new pod with a new identity is captured".to_owned())
        });
        let tally = load.stop()?;
        table.row("all the while: 0 failed", || tally.none_failed());
        lab.controller().kill();
        table.row("agent restarted with the controller gone: refused or through a tunnel", || {
            lab.agent("a").kill();
            lab.agent("a").launch()?;
            let start = Instant::now();
            let (mut refusals, mut tunnels) = (0, 0);
            shop.nothing_in_plaintext(lab, || {
                while start.elapsed() < Duration::from_secs(2) {
                    match shop.client.connect(shop.to_web(), STEP)? {
                        Err(error) if error.kind() == ErrorKind::ConnectionRefused => refusals += 1,
                        Ok(_) => tunnels += 1,
                        Err(error) => bail!("{error}"),
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                Ok(())
            })?;
            Ok(format!("{refusals} refused, {tunnels} connected, 0 SYNs in plaintext"))
        });
        table.row("controller back: connected again", || {
            lab.controller().start()?;
            let start = Instant::now();
            let open = || Held::open(&shop.client, shop.to_web()).map_err(|error| format!("{error:#}"));
            shop.nothing_in_plaintext(lab, || eventually(BACK, open)?.ensure_mtls(lab.agent("a")))?;
            Ok(format!("mtls after {:.1?}", start.elapsed()))
        });
        table.finish();
        Ok(())
    });
}
