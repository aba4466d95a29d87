//! Promise: putting namespaces into the mesh and taking them out again fails no connection, whatever dials meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use datapath::hammer::Hammer;
use datapath::held::Held;
use lab::row::Table;
use lab::{Lab, Pod, Service, eventually, programs};
use nix::sys::signal::Signal;

const LABEL: &str = "weft.dev/capture";
const PORT: u16 = 7000;
const HBONE: u16 = 15008;
/// Times that each of the two namespaces is labelled and un-labelled.
const CYCLES: usize = 20;

/// Client and servers in namespaces of their own.
struct Shop {
    client: Arc<Pod>,
    far: Arc<Pod>,
    near: Arc<Pod>,
    service: Service,
    _servers: [programs::Server; 2],
}

impl Shop {
    fn open(lab: &Lab) -> Result<Self> {
        for namespace in ["front", "back"] {
            lab.namespace(namespace).create()?;
        }
        let client = lab.pod("front/client").node("a").service_account("client").start()?;
        let far = lab.pod("back/far").node("b").service_account("far").label("app", "echo").start()?;
        let near = lab.pod("back/near").node("a").service_account("near").label("app", "echo").start()?;
        let servers = [programs::peer(&far, "echo", PORT, &[])?, programs::peer(&near, "echo", PORT, &[])?];
        let service = lab.service("back/echo").port(80, PORT).select("app", "echo").create()?;
        for pod in [&client, &far, &near] {
            lab.await_excluded(pod)?;
        }
        Ok(Self { client, far, near, service, _servers: servers })
    }

    fn pods(&self) -> [&Arc<Pod>; 3] {
        [&self.client, &self.far, &self.near]
    }

    fn far_v4(&self) -> SocketAddr {
        SocketAddr::new(self.far.v4().into(), PORT)
    }

    fn far_v6(&self) -> SocketAddr {
        SocketAddr::new(self.far.v6().into(), PORT)
    }

    fn service_v4(&self) -> SocketAddr {
        SocketAddr::new(self.service.v4().into(), 80)
    }

    fn await_in(&self, lab: &Lab) -> Result<()> {
        self.pods().into_iter().try_for_each(|pod| lab.await_captured(pod))?;
        lab.await_peers_tunnel(&self.far)
    }

    fn await_out(&self, lab: &Lab) -> Result<()> {
        self.pods().into_iter().try_for_each(|pod| lab.await_excluded(pod))
    }
}

/// What was seen over all cycles.
#[derive(Default)]
struct Seen {
    captured: usize,
    plain: usize,
    closed_after: Vec<Duration>,
}

#[test]
fn a_namespace_goes_in_and_out_under_load() {
    if !lab::ready("a_namespace_goes_in_and_out_under_load") {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new("a_namespace_goes_in_and_out_under_load");
        let shop = Shop::open(lab)?;
        // 200 per second together.
        let loads = [
            ("by service", Hammer::start(&shop.client, shop.service_v4(), 80)?),
            ("by pod address", Hammer::start(&shop.client, shop.far_v4(), 80)?),
            ("by pod address, IPv6", Hammer::start(&shop.client, shop.far_v6(), 40)?),
        ];
        let mut held = Vec::new();
        for to in [shop.far_v4(), shop.far_v6(), shop.service_v4()] {
            held.push(Held::open(&shop.client, to)?);
        }
        let mut seen = Seen::default();
        let cycles = (0..CYCLES).try_for_each(|number| {
            cycle(lab, &shop, number, &mut held, &mut seen).with_context(|| format!("cycle {number}"))
        });
        for (name, load) in loads {
            let tally = load.stop()?;
            table.row(&format!("{CYCLES} times in and out, {name}: 0 failed"), || tally.none_failed());
        }
        table.row("while captured, traffic is mtls; after, plaintext again", || {
            cycles?;
            ensure!(seen.captured == CYCLES && seen.plain > 0, "{} {}", seen.captured, seen.plain);
            Ok(format!("{} looks at each", seen.captured.min(seen.plain)))
        });
        table.row("connections that are open at a change live on", || {
            let before = held.len();
            for connection in &mut held {
                connection.speak()?;
            }
            Ok(format!("{before} connections, the oldest through {} changes", CYCLES * 4))
        });
        table.row("port 15008 is closed once the peers know", || {
            let longest = seen.closed_after.iter().max().context("never seen")?;
            Ok(format!("{} times, after {longest:.1?} at the latest", seen.closed_after.len()))
        });
        table.finish();
        Ok(())
    });
}

/// Once in, once out, in an order that depends on the number.
fn cycle(lab: &Lab, shop: &Shop, number: usize, held: &mut Vec<Held>, seen: &mut Seen) -> Result<()> {
    let order = if number.is_multiple_of(2) { ["front", "back"] } else { ["back", "front"] };
    // Every fourth time the label goes and comes before anybody can have followed.
    let hasty = number % 4 == 3;
    for namespace in order {
        lab.label_namespace(namespace, true)?;
        if hasty {
            lab.label_namespace(namespace, false)?;
            lab.label_namespace(namespace, true)?;
        }
    }
    shop.await_in(lab)?;
    let mut meshed = Held::open(&shop.client, shop.far_v4())?;
    for node in ["a", "b"] {
        meshed.ensure_mtls(lab.agent(node))?;
    }
    seen.captured += 1;
    held.iter_mut().try_for_each(Held::speak).context("while captured")?;
    let start = Instant::now();
    for namespace in order {
        lab.label_namespace(namespace, false)?;
    }
    shop.await_out(lab)?;
    meshed.speak().context("opened while captured, after it")?;
    held.iter_mut().try_for_each(Held::speak).context("after capture")?;
    if number % 2 == 1 {
        // The next label comes while peers are still being told.
        return Ok(());
    }
    let plain = Held::open(&shop.client, shop.far_v4())?;
    for node in ["a", "b"] {
        plain.ensure_untouched(lab.agent(node))?;
    }
    seen.plain += 1;
    await_closed(&shop.far, Duration::from_secs(30))?;
    await_closed(&shop.near, Duration::from_secs(30))?;
    seen.closed_after.push(start.elapsed());
    if number == 0 {
        // One that was opened in the mesh goes on through all that follows.
        held.push(meshed);
    }
    Ok(())
}

fn await_closed(pod: &Pod, deadline: Duration) -> Result<()> {
    eventually(deadline, || {
        let ports = pod.listening_ports().map_err(|error| format!("{error:#}"))?;
        if ports.contains(&HBONE) { Err(format!("{} listens on {ports:?}", pod.key())) } else { Ok(()) }
    })
}

#[test]
fn a_stuck_peer_delays_the_end_of_a_tunnel_for_30_s_at_most() {
    if !lab::ready("a_stuck_peer_delays_the_end_of_a_tunnel_for_30_s_at_most") {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new("a_stuck_peer_delays_the_end_of_a_tunnel_for_30_s_at_most");
        let shop = Shop::open(lab)?;
        lab.label_namespace("front", true)?;
        lab.label_namespace("back", true)?;
        shop.await_in(lab)?;
        let mut held = Held::open(&shop.client, shop.far_v4())?;
        held.ensure_mtls(lab.agent("a"))?;
        lab.agent("a").signal(Signal::SIGSTOP)?;
        let start = Instant::now();
        lab.label_namespace("back", false)?;
        lab.await_excluded(&shop.far)?;
        table.row("port 15008 stays for a peer that may still dial it", || {
            while start.elapsed() < Duration::from_secs(10) {
                let ports = shop.far.listening_ports()?;
                ensure!(ports.contains(&HBONE), "closed after {:.1?}", start.elapsed());
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(format!("open after {:.1?}", start.elapsed()))
        });
        table.row("port 15008 is closed all the same, after 30 s at most", || {
            await_closed(&shop.far, Duration::from_secs(31).saturating_sub(start.elapsed()))?;
            Ok(format!("closed after {:.1?}", start.elapsed()))
        });
        lab.agent("a").signal(Signal::SIGCONT)?;
        table.row("the peer that comes to itself follows, and what was open lives on", || {
            held.speak()?;
            lab.await_peers_see(&shop.far, "withdrawn")?;
            lab.label_namespace("front", false)?;
            lab.await_excluded(&shop.client)?;
            Held::open(&shop.client, shop.far_v4())?.ensure_untouched(lab.agent("a"))?;
            Ok(String::new())
        });
        table.finish();
        Ok(())
    });
}

#[test]
fn a_pods_own_label_wins_over_its_namespace() {
    if !lab::ready("a_pods_own_label_wins_over_its_namespace") {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new("a_pods_own_label_wins_over_its_namespace");
        let shop = Shop::open(lab)?;
        let looks: [(&str, bool, Option<&str>, bool); 6] = [
            ("neither has a label", false, None, false),
            ("the namespace has it", true, None, true),
            ("the pod says disabled", true, Some("disabled"), false),
            ("the pod's label goes", true, None, true),
            ("the namespace's goes, the pod says enabled", false, Some("enabled"), true),
            ("both are gone", false, None, false),
        ];
        for (name, namespace, own, captured) in looks {
            lab.label_namespace("back", namespace)?;
            lab.label_namespace("front", namespace)?;
            shop.client.set_label(LABEL, own)?;
            shop.far.set_label(LABEL, own)?;
            table.row(name, || look(lab, &shop, captured));
        }
        table.finish();
        Ok(())
    });
}

/// One connection between the nodes, and what of it the wire sees.
fn look(lab: &Lab, shop: &Shop, captured: bool) -> Result<String> {
    for pod in [&shop.client, &shop.far] {
        if captured { lab.await_captured(pod)? } else { lab.await_excluded(pod)? }
    }
    if captured {
        lab.await_peers_tunnel(&shop.far)?;
    }
    let wire = lab.capture_wire_with("b", &format!("tcp port {PORT}"), 128)?;
    let connection = Held::open(&shop.client, shop.far_v4())?;
    for node in ["a", "b"] {
        let agent = lab.agent(node);
        if captured { connection.ensure_mtls(agent)? } else { connection.ensure_untouched(agent)? }
    }
    let syns = wire.stop()?.plaintext_syns_to(shop.far.v4().into(), PORT);
    ensure!(syns == usize::from(!captured), "{syns} SYNs in plaintext");
    Ok(format!("{}, {syns} SYNs in plaintext", if captured { "mtls" } else { "untouched" }))
}
