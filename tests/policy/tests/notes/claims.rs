//! Nobody takes another pod's address by saying so, and the agents' ports lead nobody around a policy.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::row::Table;
use lab::{Lab, Pod, eventually};
use policy::cast::{Cast, at};
use policy::counts::Counts;
use policy::enforce::put;
use policy::forge::{self, Wrap};
use policy::near::{CLIENT_ONLY, FAMILIES, is_direct, node_shell, others_are_refused};
use policy::open::Open;

use crate::{PATIENCE, PORT};

/// Where agents listen.
const AGENTS: [u16; 3] = [15001, 15006, 15008];

#[test]
fn neither_a_claim_nor_the_agents_ports_lead_around_a_policy() {
    const TEST: &str = "neither_a_claim_nor_the_agents_ports_lead_around_a_policy";
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").learned_neighbours().node("b").run(|lab| {
        let cast = Cast::start(lab)?;
        let mut table = Table::new(TEST);
        put(lab, CLIENT_ONLY)?;
        for (family, ipv6) in FAMILIES {
            for (how, wrap) in [
                ("", Wrap::Plain),
                (", with a priority tag", Wrap::PriorityTag),
                (", behind seven extension headers", Wrap::Headers),
            ] {
                if wrap == Wrap::Headers && !ipv6 {
                    continue;
                }
                table.row(
                    &format!("{family}: both ends' addresses are claimed{how}: nobody hears it"),
                    || {
                        let told = claimed(lab, &cast, ipv6, wrap);
                        // Whatever was believed is asked anew.
                        node_shell(&cast.near, "ip neigh flush dev cni0")?;
                        told
                    },
                );
            }
        }
        for (who, pod) in
            [("a neighbour", &cast.cart), ("a stranger", &cast.stranger), ("the client", &cast.client)]
        {
            table.row(&format!("{who} at the agents' ports of the server, and of the node"), || {
                at_the_agents_ports(lab, &cast, pod)
            });
        }
        table.finish();
        Ok(())
    });
}

/// By ARP or neighbour advertisements, while the node asks again and again who has which address.
fn claimed(lab: &Lab, cast: &Cast, ipv6: bool, wrap: Wrap) -> Result<String> {
    const ROUNDS: usize = 10;
    let (liars, victims) = ([&cast.cart, &cast.stranger], [&cast.near, &cast.client]);
    for round in 0..ROUNDS {
        if round % 2 == 1 {
            node_shell(&cast.near, "ip neigh flush dev cni0")?;
        }
        for liar in liars {
            let counts = Counts::of(lab.agent("a"))?;
            for victim in victims {
                liar.netns_thread(|| match ipv6 {
                    false => forge::claim_v4(victim.v4(), wrap),
                    true => forge::claim_v6(liar.v6(), victim.v6(), wrap),
                })??;
            }
            let (claims, stopped) = (2 * victims.len() as u64, counts.since("spoofed_source")?);
            ensure!(stopped >= claims, "{stopped} of {claims} claims of {} were stopped", liar.key());
        }
        is_direct(lab, &Open::new(&cast.client, at(&cast.near, ipv6, PORT))?)?;
    }
    let known = node_shell(&cast.near, "ip neigh show dev cni0")?;
    for liar in liars {
        let mac = liar.netns_thread(forge::own_mac)??;
        for victim in victims.iter().flat_map(|victim| victim.addresses()) {
            let believed = |line: &str| line.starts_with(&format!("{victim} ")) && line.contains(&mac);
            ensure!(!known.lines().any(believed), "{} has {victim}: {known}", liar.key());
        }
    }
    Ok(format!("{ROUNDS} direct connections in between"))
}

fn at_the_agents_ports(lab: &Lab, cast: &Cast, from: &Pod) -> Result<String> {
    let counts = Counts::of(lab.agent("a"))?;
    let node = from.node();
    let own: [IpAddr; 2] = [node.v4().into(), node.v6().into()];
    let addresses = cast.near.addresses().into_iter().chain(own);
    for address in addresses {
        for port in AGENTS {
            let to = SocketAddr::new(address, port);
            let heard = heard(from, to)?;
            // A TLS alert says that nobody is known.
            ensure!(heard.is_empty() || heard.starts_with(&[0x15]), "{to} answers {heard:?}");
        }
    }
    counts.ensure(&[("admitted", 0), ("steered_plaintext", 0)])?;
    eventually(PATIENCE, || match lab.agent("a").connections() {
        Ok(rows) if rows.is_empty() => Ok(()),
        other => Err(format!("the agent has connections: {other:?}")),
    })?;
    for (_, ipv6) in FAMILIES {
        others_are_refused(cast, at(&cast.near, ipv6, PORT))?;
    }
    Ok(format!("{:?}", counts.all()?))
}

/// What comes back for a word, if anything.
fn heard(from: &Pod, to: SocketAddr) -> Result<Vec<u8>> {
    let Ok(mut stream) = from.connect(to, Duration::from_secs(2))? else { return Ok(Vec::new()) };
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut heard = Vec::new();
    // However it ends: what was heard until then counts.
    let _end = stream.write_all(b"word").and_then(|()| stream.read_to_end(&mut heard));
    Ok(heard)
}
