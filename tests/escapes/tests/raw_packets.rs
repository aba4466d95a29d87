//! Crafted packets gain no identity, and by themselves no connection.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use escapes::attempt::run_way;
use escapes::stage::{self, Stage};
use lab::Lab;
use serde_json::Value;

/// One crafted handshake from the client, from this address and port.
fn craft(stage: &Stage<'_>, from: SocketAddr, to: SocketAddr, more: &[&str]) -> Result<Value> {
    let (from, to) = (from.to_string(), to.to_string());
    let mut words = vec!["raw", "--from", &from, "--to", &to, "--say", "no secret"];
    words.extend(more);
    run_way(&stage.client, &words)
}

/// It was heard by nobody, and no agent ever took it for a connection.
fn nowhere(stage: &Stage<'_>, said: &Value) -> Result<String> {
    ensure!(said["heard"] == "", "{said}");
    stage.door.nobody()?;
    for agent in stage.lab.agents() {
        let rows = agent.connections()?;
        ensure!(rows.is_empty(), "the agent on {}: {rows:?}", agent.node());
    }
    Ok(match (&said["accepted"], &said["reset"]) {
        (Value::Bool(true), _) => "its SYN was answered, the rest reset".to_owned(),
        (_, Value::Bool(true)) => "reset".to_owned(),
        _ => "no answer".to_owned(),
    })
}

#[test]
fn crafted_packets_make_no_connection() {
    // On the wire between the nodes there are the SYNs that were crafted, so the wire is not judged here.
    stage::document(
        "crafted_packets_make_no_connection",
        Lab::builder().node("a").node("b"),
        |stage, table| {
            let own = |port| SocketAddr::new(stage.client.v4().into(), port);
            let link: &[&str] = &["--device", "eth0"];
            let mut port = 30_000;
            for (way, more) in [("a raw socket", &[] as &[&str]), ("a packet socket", link)] {
                let sources: [(&str, IpAddr); 4] = [
                    ("its own address", stage.client.v4().into()),
                    ("a captured neighbour's", stage.neighbour.v4().into()),
                    ("that of a pod outside the mesh", stage.stranger.v4().into()),
                    ("the destination's own", stage.server.v4().into()),
                ];
                for (name, source) in sources {
                    port += 1;
                    table.row(&format!("{way}, a captured peer on another node, from {name}"), || {
                        nowhere(stage, &craft(stage, SocketAddr::new(source, port), stage.door.v4(), more)?)
                    });
                }
                for (name, source) in [
                    ("its own address", stage.client.v6().into()),
                    ("the destination's own", stage.server.v6().into()),
                ] {
                    port += 1;
                    let source: IpAddr = source;
                    table.row(&format!("{way}, IPv6, from {name}"), || {
                        nowhere(stage, &craft(stage, SocketAddr::new(source, port), stage.door.v6(), more)?)
                    });
                }
                for agents in [15001, 15006, 15008] {
                    port += 1;
                    table.row(&format!("{way}, the agent's {agents} of a captured peer"), || {
                        let to = SocketAddr::new(stage.server.v4().into(), agents);
                        nowhere(stage, &craft(stage, own(port), to, more)?)
                    });
                }
            }
            for agents in [15001, 15006, 15008, stage::PORT] {
                port += 1;
                table.row(&format!("a raw socket, {agents} at the pod's own address, from loopback"), || {
                    let from = SocketAddr::new([127, 0, 0, 1].into(), port);
                    nowhere(stage, &craft(stage, from, own(agents), &[])?)
                });
            }
            table.row("beside all this the mesh goes on", || {
                let attempt = escapes::Attempt::from_pod::<&str>(&stage.client, stage.door.v4(), &[])?;
                stage.carried(attempt, &stage.client)
            });
            Ok(())
        },
    );
}

#[test]
fn crafted_packets_are_stopped_at_the_pod_s_device_and_other_protocols_pass() {
    let test = "crafted_packets_are_stopped_at_the_pod_s_device_and_other_protocols_pass";
    stage::document(test, Lab::builder().node("a").node("b"), |stage, table| {
        let own = SocketAddr::new(stage.client.v4().into(), 31_000);
        let neighbour = SocketAddr::new(stage.neighbour.v4().into(), 31_001);
        let stopped = |reason: &str| stage::refusals(stage.near(), reason);
        table.row("a SYN with a neighbour's source does not leave the pod", || {
            let (wire, before) = (stage.lab.capture_wire("b")?, stopped("spoofed_source")?);
            nowhere(stage, &craft(stage, neighbour, stage.door.v4(), &[])?)?;
            let pcap = wire.stop()?;
            let syns = pcap.segments().iter().filter(|segment| segment.is_syn() && segment.src == neighbour);
            ensure!(syns.count() == 0, "it left the node");
            let count = stopped("spoofed_source")? - before;
            ensure!(count > 0, "nobody has counted it");
            Ok(format!("{count} stopped at the pod's device"))
        });
        table.row("with NET_ADMIN, resets held back, a raw handshake into the mesh does not begin", || {
            stage.sh(
                "nft add table ip mute; nft add chain ip mute out '{ type filter hook output priority 0; }'; \
                 nft add rule ip mute out tcp sport 31000 tcp flags rst drop",
            )?;
            let (wire, before) = (stage.lab.capture_wire("b")?, stopped("bypass")?);
            let said = craft(stage, own, stage.door.v4(), &["--timeout-ms", "2000"]);
            stage.sh("nft delete table ip mute")?;
            nowhere(stage, &said?)?;
            let pcap = wire.stop()?;
            let seen =
                pcap.segments().iter().filter(|segment| segment.src == own && segment.dst == stage.door.v4());
            ensure!(seen.count() == 0, "it left the node");
            let count = stopped("bypass")? - before;
            ensure!(count > 0, "nobody has counted it");
            Ok(format!("{count} stopped at the pod's device"))
        });
        table.row("documented: UDP is not tunnelled", || {
            let wire = stage.lab.capture_wire("b")?;
            let (from, to) = (stage.client.v4().to_string(), SocketAddr::new(stage.server.v4().into(), 9999));
            let words =
                ["datagram", "--from", &from, "--to", &to.to_string(), "--say", "a datagram of no secret"];
            run_way(&stage.client, &words)?;
            let read = wire.stop()?.count_plaintext(b"a datagram of no secret");
            ensure!(read > 0, "it was not on the wire");
            Ok(format!("{read} bytes can be read"))
        });
        let probe = escapes::Attempt::openly(
            &stage.client,
            stage.door.v4(),
            &["--how", "sctp", "--timeout-ms", "1000"],
        )?;
        let end = probe.end()?;
        match end.errno.as_deref() {
            Some(errno) if end.failed.as_deref() == Some("socket") => {
                table.absent("documented: SCTP is not tunnelled", &format!("this kernel has none ({errno})"));
            }
            _ => table.row("documented: SCTP is not tunnelled", || {
                stage.door.nobody()?;
                Ok("it is not taken for TCP".to_owned())
            }),
        }
        Ok(())
    });
}
