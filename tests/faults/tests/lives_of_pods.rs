//! Fault: a pod does not live as pods do. Its sandbox starts over, its object goes before it does, it finishes, its address
//! becomes another pod's. Promise: who it was stays with it, nobody else becomes it, and what it leaves is cleared.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use datapath::held::Held;
use datapath::seen::{connection, connection_within, identity};
use faults::pins::{Pins, cookie};
use lab::row::Table;
use lab::{Lab, Pod, eventually, programs};

const PORT: u16 = 7000;
/// The port on which a pod says its name.
const NAME_PORT: u16 = 7001;
/// A connection that is in no table by then goes past the agents.
const UNSEEN: Duration = Duration::from_millis(300);
/// After a change of its sandbox a pod is to be reached again so soon.
const SOON: Duration = Duration::from_secs(10);

/// Fails if a SYN to the port of one of these addresses is on node b's wire in plain text while `meanwhile` goes on.
fn nothing_in_plaintext<T>(lab: &Lab, meanwhile: impl FnOnce() -> Result<(T, Vec<IpAddr>)>) -> Result<T> {
    let wire = lab.capture_wire_with("b", &format!("tcp port {PORT} or tcp port {NAME_PORT}"), 128)?;
    let outcome = meanwhile();
    let pcap = wire.stop()?;
    let (value, addresses) = outcome?;
    for address in addresses {
        let syns = pcap.plaintext_syns_to(address, PORT) + pcap.plaintext_syns_to(address, NAME_PORT);
        ensure!(syns == 0, "{syns} SYNs in plain text to {address}");
    }
    Ok(value)
}

/// A captured pod of a service account of its own, with an echo server and one that says its name.
struct Home {
    pod: Arc<Pod>,
    _servers: Vec<programs::Server>,
}

impl Home {
    fn of(pod: Arc<Pod>) -> Result<Self> {
        let name = ["--text", pod.name()];
        let servers =
            vec![programs::peer(&pod, "echo", PORT, &[])?, programs::peer(&pod, "banner", NAME_PORT, &name)?];
        Ok(Self { pod, _servers: servers })
    }

    fn start(lab: &Lab, name: &str, node: &str) -> Result<Self> {
        let home = Self::of(lab.pod(&format!("shop/{name}")).node(node).service_account(name).start()?)?;
        lab.await_captured(&home.pod)?;
        Ok(home)
    }
}

/// Waits until every agent knows the pod at the addresses that it has now.
fn await_address(lab: &Lab, pod: &Pod) -> Result<()> {
    for agent in lab.agents() {
        eventually(SOON, || {
            let known = agent.workloads().map_err(|error| format!("{error:#}"))?;
            let row = known.iter().find(|row| row["uid"] == pod.uid()).map(ToString::to_string);
            let row = row.unwrap_or_default();
            let all = pod.addresses().iter().all(|address| row.contains(&address.to_string()));
            if all { Ok(()) } else { Err(format!("{}: {row}", agent.node())) }
        })?;
    }
    Ok(())
}

/// Connects until it works, through a tunnel, both ways and with both families.
fn talk(lab: &Lab, one: &Pod, other: &Pod) -> Result<Duration> {
    let start = Instant::now();
    for (from, to) in [(one, other), (other, one)] {
        for address in to.addresses() {
            let to = SocketAddr::new(address, PORT);
            let open = || -> Result<(), String> {
                let text = |error: anyhow::Error| format!("{error:#}");
                let held = Held::open(from, to).map_err(text)?;
                held.ensure_mtls(lab.agent(from.node().name())).map_err(text)
            };
            eventually(SOON, open).with_context(|| format!("{} to {to}", from.key()))?;
        }
    }
    Ok(start.elapsed())
}

#[test]
fn a_sandbox_that_starts_over_is_captured_anew() {
    const NAME: &str = "a_sandbox_that_starts_over_is_captured_anew";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(NAME);
        lab.namespace("shop").captured()?;
        let client = Home::start(lab, "client", "a")?;
        let mut server = Home::start(lab, "server", "b")?;
        lab.await_peers_tunnel(&client.pod)?;
        lab.await_peers_tunnel(&server.pod)?;
        let pins = Pins::of(lab, "b");
        talk(lab, &client.pod, &server.pod)?;
        for round in 1..=3 {
            table.row(&format!("round {round}: another namespace and address, tunnels both ways"), || {
                let old = (cookie(&server.pod)?, server.pod.addresses());
                let took = nothing_in_plaintext(lab, || {
                    let pod = server.pod.restart_sandbox()?;
                    server = Home::of(pod)?;
                    await_address(lab, &server.pod)?;
                    let took = talk(lab, &client.pod, &server.pod)?;
                    Ok((took, server.pod.addresses()))
                })?;
                ensure!(server.pod.addresses() != old.1, "the address is the same");
                lab.await_captured(&server.pod)?;
                pins.ensure_captured(&server.pod)?;
                eventually(SOON, || pins.ensure_gone(old.0, 0, &old.1))?;
                for address in &old.1 {
                    let ports = pins.listening_at(*address)?;
                    ensure!(ports.is_empty(), "listeners at {address}: {ports:?}");
                }
                Ok(format!("both ways after {took:.1?}"))
            });
        }
        table.row("the client's own sandbox: the same", || {
            let pod = client.pod.restart_sandbox()?;
            let again = Home::of(pod)?;
            let took = talk(lab, &again.pod, &server.pod)?;
            Ok(format!("both ways after {took:.1?}"))
        });
        table.finish();
        Ok(())
    });
}

#[test]
fn a_pod_that_the_api_has_forgotten_stays_captured_while_it_lives() {
    const NAME: &str = "a_pod_that_the_api_has_forgotten_stays_captured_while_it_lives";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(NAME);
        lab.namespace("shop").captured()?;
        let client = Home::start(lab, "client", "a")?;
        let server = Home::start(lab, "server", "b")?;
        lab.await_peers_tunnel(&client.pod)?;
        lab.await_peers_tunnel(&server.pod)?;
        let (agent, pins) = (lab.agent("b"), Pins::of(lab, "b"));
        let mut held = Held::open(&client.pod, SocketAddr::new(server.pod.v4().into(), PORT))?;
        server.pod.delete_object()?;
        for agent in lab.agents() {
            eventually(SOON, || {
                let known = agent.workloads().map_err(|error| format!("{error:#}"))?;
                let row = known.iter().find(|row| row["uid"] == server.pod.uid());
                row.map_or(Ok(()), |row| Err(format!("{} knows {row}", agent.node())))
            })?;
        }
        table.row("its hooks, listeners and addresses stay", || {
            lab.await_captured(&server.pod)?;
            pins.ensure_captured(&server.pod)?;
            let ports = server.pod.listening_ports()?;
            ensure!([15001, 15006, 15008].iter().all(|port| ports.contains(port)), "{ports:?}");
            Ok(String::new())
        });
        table.row("what it had open goes on", || held.speak().map(|()| String::new()));
        table.row("it dials through tunnels, as itself", || {
            nothing_in_plaintext(lab, || {
                let to = SocketAddr::new(client.pod.v4().into(), PORT);
                let dialled = Held::open(&server.pod, to)?;
                dialled.ensure_mtls(agent)?;
                let row = connection(lab.agent("a"), "inbound", dialled.client, to)?;
                ensure!(row["src"]["identity"] == identity(&server.pod).as_str(), "{row}");
                Ok((String::new(), client.pod.addresses()))
            })
        });
        table.row("its certificate stays", || {
            let certs = agent.certs()?;
            let own = identity(&server.pod);
            ensure!(certs.iter().any(|row| row.to_string().contains(&own)), "{certs:?}");
            Ok(String::new())
        });
        table.row("when its last process is gone, so is all of it", || {
            let (cookie, id, addresses) =
                (cookie(&server.pod)?, server.pod.cgroup().id()?, server.pod.addresses());
            server.pod.cgroup().kill(Duration::from_secs(10))?;
            let start = Instant::now();
            eventually(SOON, || pins.ensure_gone(cookie, id, &addresses))?;
            for address in addresses {
                ensure!(pins.listening_at(address)?.is_empty(), "listeners at {address}");
            }
            let after = start.elapsed();
            server.pod.destroy()?;
            Ok(format!("after {after:.1?}"))
        });
        table.finish();
        Ok(())
    });
}

#[test]
fn an_address_that_goes_to_another_pod_is_nobody_elses() {
    const NAME: &str = "an_address_that_goes_to_another_pod_is_nobody_elses";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(NAME);
        lab.namespace("shop").captured()?;
        let client = Home::start(lab, "client", "a")?;
        let pins = Pins::of(lab, "b");
        table.row("a pod that has finished owns no address, whatever its status says", || {
            let done = Home::start(lab, "job", "b")?;
            lab.await_peers_tunnel(&done.pod)?;
            talk(lab, &client.pod, &done.pod)?;
            done.pod.set_phase("Succeeded")?;
            done.pod.destroy()?;
            nothing_in_plaintext(lab, || {
                let next = lab.pod("shop/next").service_account("next").addresses_of(&done.pod).start()?;
                ensure!(next.addresses() == done.pod.addresses(), "other addresses");
                let next = Home::of(next)?;
                lab.await_captured(&next.pod)?;
                lab.await_peers_tunnel(&next.pod)?;
                let took = talk(lab, &client.pod, &next.pod)?;
                pins.ensure_captured(&next.pod)?;
                let names = named(lab, &client.pod, next.pod.v4().into(), 20)?;
                ensure!(names.keys().eq(["next"]), "{names:?}");
                next.pod.delete()?;
                Ok((format!("reached as the next one after {took:.1?}"), Vec::new()))
            })
        });
        table.row("its object goes at last: the address stays the next one's", || {
            let again = lab.pod("shop/again").node("b").service_account("again").start()?;
            let again = Home::of(again)?;
            lab.await_captured(&again.pod)?;
            let gone = lab
                .pods()
                .into_iter()
                .find(|pod| pod.name() == "job")
                .context("the finished pod's object")?;
            gone.delete_object()?;
            lab.await_peers_tunnel(&again.pod)?;
            talk(lab, &client.pod, &again.pod)?;
            again.pod.delete()?;
            Ok(String::new())
        });
        table.row("from one identity to another and back, dialled all the while", || {
            let mut current = Home::start(lab, "alpha", "b")?;
            lab.await_peers_tunnel(&current.pod)?;
            let address: IpAddr = current.pod.v4().into();
            let mut all: BTreeMap<String, u32> = BTreeMap::new();
            nothing_in_plaintext(lab, || {
                for name in ["beta", "alpha", "gamma", "alpha"] {
                    add(&mut all, named(lab, &client.pod, address, 10)?);
                    let gone = current.pod.clone();
                    current.pod.delete()?;
                    let builder = lab.pod(&format!("shop/{name}")).service_account(name);
                    let next = Home::of(builder.addresses_of(&gone).start()?)?;
                    // Neither waited for nor told: whatever is answered is of whom the table says it is.
                    add(&mut all, named(lab, &client.pod, address, 20)?);
                    lab.await_captured(&next.pod)?;
                    lab.await_peers_tunnel(&next.pod)?;
                    let after = named(lab, &client.pod, address, 5)?;
                    ensure!(after.keys().eq([name]), "wanted {name}, reached {after:?}");
                    current = next;
                }
                Ok(((), Vec::new()))
            })?;
            current.pod.delete()?;
            Ok(format!("answered: {all:?}"))
        });
        table.finish();
        Ok(())
    });
}

fn add(all: &mut BTreeMap<String, u32>, more: BTreeMap<String, u32>) {
    for (name, count) in more {
        *all.entry(name).or_default() += count;
    }
}

/// Dials the address some times and reads who answers, and how. Whoever does so with an identity must be who the client's
/// agent has authenticated; a refusal is counted as such.
fn named(lab: &Lab, client: &Pod, address: IpAddr, times: u32) -> Result<BTreeMap<String, u32>> {
    let to = SocketAddr::new(address, NAME_PORT);
    let mut names = BTreeMap::new();
    for _ in 0..times {
        let Ok(stream) = client.connect(to, Duration::from_secs(5))? else {
            *names.entry("refused".to_owned()).or_default() += 1;
            continue;
        };
        stream.set_read_timeout(Some(Duration::from_secs(15)))?;
        let mut line = String::new();
        let read = BufReader::new(&stream).read_line(&mut line);
        let name = match read {
            Ok(count) if count > 0 => line.trim().to_owned(),
            Ok(_) => anyhow::bail!("a clean end before the first byte"),
            Err(_) => {
                *names.entry("refused".to_owned()).or_default() += 1;
                continue;
            }
        };
        let agent = lab.agent(client.node().name());
        let Ok(row) = connection_within(UNSEEN, agent, "outbound", stream.local_addr()?, to) else {
            // Dialled while the address was nobody's: the kernel left it as it is, and no agent has it.
            *names.entry(format!("{name}, left as dialled")).or_default() += 1;
            continue;
        };
        let wanted = format!("spiffe://{}/ns/shop/sa/{name}", lab::TRUST_DOMAIN);
        let name = match row["security"].as_str() {
            Some("mtls") if row["dst"]["identity"] == wanted.as_str() => name,
            // Not yet reported captured: plaintext, and nobody's identity.
            Some("plaintext") if row["dst"]["identity"].is_null() => format!("{name}, in plaintext"),
            _ => anyhow::bail!("{name} answered: {row}"),
        };
        *names.entry(name).or_default() += 1;
    }
    Ok(names)
}
