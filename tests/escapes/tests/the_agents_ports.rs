//! The agent's listeners in a pod are no way in, no way around and no open proxy, and a pod that takes their ports for itself
//! gets nothing by it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use escapes::stage::{self, refusals};
use escapes::{Attempt, Door};
use lab::eventually;

const AGENTS: [u16; 3] = [15001, 15006, 15008];
/// Where redirected connects may arrive beside 15001.
const CAPTURE: std::ops::RangeInclusive<u16> = 15104..=15135;

#[test]
fn the_agents_listeners_lead_nowhere() {
    stage::run("the_agents_listeners_lead_nowhere", |stage, table| {
        let (client, neighbour, server) = (&stage.client, &stage.neighbour, &stage.server);
        for port in AGENTS.into_iter().chain([*CAPTURE.start()]) {
            for address in client.addresses() {
                table.row(&format!("the pod's own {port} at {}", family(address)), || {
                    let words = ["--timeout-ms", "3000"];
                    let attempt = Attempt::from_pod(client, SocketAddr::new(address, port), &words)?;
                    stage.fruitless(attempt)
                });
            }
            table.row(&format!("the pod's own {port} on loopback"), || {
                let attempt =
                    Attempt::from_pod::<&str>(client, SocketAddr::new([127, 0, 0, 1].into(), port), &[])?;
                attempt.fails("ECONNREFUSED")
            });
            table.row(&format!("the pod's own {port} from a loopback address"), || {
                let words = ["--bind", "127.0.0.1:0", "--timeout-ms", "1500"];
                stage.fruitless(Attempt::from_pod(client, SocketAddr::new(client.v4().into(), port), &words)?)
            });
            for (name, pod) in
                [("a captured pod's on the same node", neighbour), ("a captured pod's elsewhere", server)]
            {
                for address in pod.addresses() {
                    table.row(&format!("{name}: {port} at {}", family(address)), || {
                        let attempt = Attempt::from_pod::<&str>(client, SocketAddr::new(address, port), &[])?;
                        stage.fruitless(attempt)
                    });
                }
            }
            for (name, from) in [("the same node", &stage.stranger), ("another node", &stage.store)] {
                for address in client.addresses() {
                    table.row(
                        &format!("from outside the mesh, on {name}: {port} at {}", family(address)),
                        || {
                            let to = SocketAddr::new(address, port);
                            stage.fruitless(Attempt::openly::<&str>(from, to, &[])?)
                        },
                    );
                }
            }
        }
        table.row("a capture port, from a source port whose last connection went through the mesh", || {
            let from = SocketAddr::new(client.v4().into(), 23_456).to_string();
            let words = ["--bind", &from, "--reset"];
            stage.carried(Attempt::from_pod(client, stage.door.v4(), &words)?, client)?;
            for port in [15001].into_iter().chain(CAPTURE) {
                let own = SocketAddr::new(client.v4().into(), port);
                stage.fruitless(Attempt::from_pod(client, own, &words)?).with_context(|| port.to_string())?;
            }
            Ok("no answer at any of them".to_owned())
        });
        Ok(())
    });
}

#[test]
fn a_service_that_leads_to_the_agents_ports_is_no_loop() {
    stage::run("a_service_that_leads_to_the_agents_ports_is_no_loop", |stage, table| {
        let redirected = |text: &str| -> Result<u64> {
            let line =
                text.lines().find(|line| line.contains("event=\"redirected\"")).context("no such counter")?;
            Ok(line.rsplit(' ').next().context("no value")?.parse::<f64>()? as u64)
        };
        for pod in [&stage.client, &stage.neighbour, &stage.server] {
            let builder = stage.lab.service(&format!("shop/to-{}", pod.name())).select("app", pod.name());
            let service = AGENTS.iter().fold(builder, |builder, port| builder.port(*port, *port)).create()?;
            await_service(stage.near(), service.v4().into())?;
            for port in AGENTS {
                table.row(&format!("the agent's {port} of {}, by a Service", pod.name()), || {
                    let before = redirected(&stage.near().metrics()?)?;
                    let to = SocketAddr::new(service.v4().into(), port);
                    let said = stage.fruitless(Attempt::from_pod::<&str>(&stage.client, to, &[])?)?;
                    let times = redirected(&stage.near().metrics()?)?.saturating_sub(before);
                    // Its own it is sent to at once, where it is reset.
                    let wanted = u64::from(pod.uid() != stage.client.uid());
                    ensure!(times == wanted, "redirected {times} times");
                    Ok(format!("{said}, redirected {times} times"))
                });
            }
        }
        table.row("the agent has nothing of it open", || {
            stage::quiet(stage.near())?;
            stage.carried(Attempt::from_pod::<&str>(&stage.client, stage.door.v4(), &[])?, &stage.client)
        });
        Ok(())
    });
}

#[test]
fn a_pod_that_binds_the_agents_ports_gets_nothing_by_it() {
    stage::run("a_pod_that_binds_the_agents_ports_gets_nothing_by_it", |stage, table| {
        let lab = stage.lab;
        let early = lab.pod("shop/early").node("a").service_account("early");
        let early = early.label("weft.dev/capture", "disabled").start()?;
        lab.await_excluded(&early)?;
        let taken: Vec<Door> = AGENTS.iter().map(|port| Door::open(&early, *port)).collect::<Result<_>>()?;
        let inside = Door::open(&early, 7004)?;
        early.set_label("weft.dev/capture", None)?;
        table.row("bound before: the pod is captured all the same", || {
            lab.await_captured(&early)?;
            lab.await_peers_tunnel(&early)?;
            Ok(String::new())
        });
        table.row("bound before: its own connections go through the mesh", || {
            stage.carried(Attempt::from_pod::<&str>(&early, stage.door.v4(), &[])?, &early)
        });
        table.row("bound before: IPv6", || {
            stage.carried(Attempt::from_pod::<&str>(&early, stage.door.v6(), &[])?, &early)
        });
        table.row("bound before: it is reached through the mesh", || reached(stage, &inside));
        for (door, port) in taken.iter().zip(AGENTS) {
            table.row(&format!("bound before: nobody comes to its {port}"), || {
                for from in [&stage.client, &stage.neighbour, &stage.stranger, &stage.store, &early] {
                    let attempt = Attempt::openly(from, door.v4(), &["--timeout-ms", "3000"])?;
                    attempt.gets_nothing().with_context(|| from.key())?;
                }
                door.nobody()?;
                Ok(String::new())
            });
        }
        drop(taken);
        for port in AGENTS {
            table.row(&format!("bound after: {port} is taken"), || {
                for at in [
                    SocketAddr::new(stage.client.v4().into(), port),
                    SocketAddr::new([0, 0, 0, 0].into(), port),
                ] {
                    let error =
                        stage.client.listen(at)?.err().with_context(|| format!("it may listen at {at}"))?;
                    ensure!(error.kind() == std::io::ErrorKind::AddrInUse, "{at}: {error}");
                }
                Ok("EADDRINUSE".to_owned())
            });
        }
        stage.near().kill();
        let taken: Vec<Door> =
            AGENTS.iter().map(|port| Door::open(&stage.client, *port)).collect::<Result<_>>()?;
        table.row("bound while there is no agent: its own connections are refused and not its own", || {
            let attempt = Attempt::from_pod::<&str>(&stage.client, stage.door.v4(), &[])?;
            let said = attempt.fails("ECONNREFUSED")?;
            taken.iter().try_for_each(Door::nobody)?;
            stage.door.nobody()?;
            Ok(said)
        });
        table.row("bound while there was no agent: the next one captures it again", || {
            stage.near().start()?;
            lab.await_captured(&stage.client)?;
            eventually(Duration::from_secs(20), || {
                let attempt = Attempt::from_pod::<&str>(&stage.client, stage.door.v4(), &[]);
                let carried = attempt.and_then(|attempt| stage.carried(attempt, &stage.client));
                carried.map_err(|error| format!("{error:#}"))
            })?;
            taken.iter().try_for_each(Door::nobody)?;
            Ok(format!("{} refused meanwhile", refusals(stage.near(), "not_ready")?))
        });
        Ok(())
    });
}

/// A captured pod is dialled by another one.
fn reached(stage: &escapes::Stage<'_>, door: &Door) -> Result<String> {
    let attempt = Attempt::from_pod::<&str>(&stage.client, door.v4(), &[])?;
    let guest = door.guest().with_context(|| attempt.report())?;
    ensure!(guest.line()? == attempt.said, "somebody else came");
    let row = guest.row(stage.near())?;
    ensure!(row["security"] == "kernel" && row["path"] == "direct", "{row}");
    guest.answer("heard")?;
    ensure!(attempt.end()?.heard == "heard", "it was not answered");
    Ok("directly".to_owned())
}

fn await_service(agent: &lab::Agent, address: IpAddr) -> Result<()> {
    let text = address.to_string();
    eventually(Duration::from_secs(20), || {
        let services = agent.admin("/v1/services").map_err(|error| format!("{error:#}"))?;
        let has = |service: &&serde_json::Value| {
            service["addresses"].as_array().is_some_and(|all| all.iter().any(|one| one == text.as_str()))
                && service["endpoints"].as_array().is_some_and(|all| !all.is_empty())
        };
        services.as_array().into_iter().flatten().find(has).map(drop).ok_or_else(|| services.to_string())
    })
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}
