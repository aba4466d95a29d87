//! A captured pod with NET_ADMIN changes its own namespace as it likes: it becomes nobody else, and what it cuts off from the mesh
//! is cut off.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use escapes::stage::{self, CAPTURE_PORTS, Stage, identity};
use escapes::{Attempt, Door};
use lab::{Lab, eventually};

/// Shorter than a TCP connect's patience: for what nobody answers.
const SHORT: [&str; 2] = ["--timeout-ms", "1500"];

/// Does something to the pod's namespace, tries, and undoes it.
fn with<T>(stage: &Stage<'_>, first: &str, after: &str, then: impl FnOnce() -> Result<T>) -> Result<T> {
    stage.sh(first).with_context(|| first.to_owned())?;
    let result = then();
    stage.sh(after).with_context(|| after.to_owned())?;
    result
}

#[test]
fn another_pods_address_is_not_another_pods_identity() {
    stage::run("another_pods_address_is_not_another_pods_identity", |stage, table| {
        let client = &stage.client;
        for (name, pod) in [
            ("a captured neighbour's", &stage.neighbour),
            ("that of a pod outside the mesh", &stage.stranger),
            ("that of a pod on another node", &stage.store),
        ] {
            let (v4, v6) = (pod.v4(), pod.v6());
            table.row(&format!("an address added, {name}: spoken from, IPv4"), || {
                let words = ["--bind".to_owned(), format!("{v4}:0")];
                let (add, del) =
                    (format!("ip addr add {v4}/32 dev eth0"), format!("ip addr del {v4}/32 dev eth0"));
                with(stage, &add, &del, || {
                    stage.carried(Attempt::from_pod(client, stage.door.v4(), &words)?, client)
                })
            });
            table.row(&format!("an address added, {name}: spoken from, IPv6"), || {
                let words = ["--bind".to_owned(), format!("[{v6}]:0"), SHORT.join("=")];
                let add = format!("ip addr add {v6}/128 dev eth0 nodad");
                with(stage, &add, &format!("ip addr del {v6}/128 dev eth0"), || {
                    // The kernel may choose that address for a new tunnel too: its answers go to whose it is.
                    stage.itself_or_nothing(Attempt::from_pod(client, stage.door.v6(), &words)?, client)
                })
            });
        }
        table.row("the own address replaced by a captured neighbour's", || {
            let (own, other) = (client.v4(), stage.neighbour.v4());
            let first = format!("ip addr add {other}/32 dev eth0; ip addr del {own}/32 dev eth0");
            let after = format!(
                "ip addr add {own}/32 dev eth0; ip addr del {other}/32 dev eth0; ip route replace default via {} dev eth0 onlink",
                gateway(stage)
            );
            let first = format!("{first}; ip route replace default via {} dev eth0 onlink", gateway(stage));
            with(stage, &first, &after, || {
                stage.fruitless(Attempt::from_pod(client, stage.door.v4(), &SHORT)?)
            })
        });
        table.row("the server's own address added: its agent is still asked for its certificate", || {
            let v4 = stage.server.v4();
            let (add, del) = (format!("ip addr add {v4}/32 dev lo"), format!("ip addr del {v4}/32 dev lo"));
            await_no_tunnel(stage)?;
            with(stage, &add, &del, || {
                let false_server = Door::open_at(client, stage.door.v4())?;
                let false_agent = Door::open_at(client, SocketAddr::new(v4.into(), 15008))?;
                let attempt = Attempt::from_pod(client, stage.door.v4(), &SHORT)?;
                let guest = false_agent.guest().with_context(|| attempt.report())?;
                let hello = guest.bytes()?;
                // A TLS handshake record with a ClientHello, and nothing of what is said.
                ensure!(hello.starts_with(&[0x16, 3]), "{hello:?}");
                ensure!(!String::from_utf8_lossy(&hello).contains(&attempt.said), "it can be read");
                drop(guest);
                false_server.nobody()?;
                stage.fruitless(attempt)
            })
        });
        table.row("after all this: itself", || {
            stage.carried(Attempt::from_pod::<&str>(client, stage.door.v4(), &[])?, client)
        });
        Ok(())
    });
}

#[test]
fn rules_and_routes_cut_off_and_never_around() {
    stage::run("rules_and_routes_cut_off_and_never_around", |stage, table| {
        let client = &stage.client;
        let own = client.v4();
        let gateway = gateway(stage);
        let carried = || stage.carried(Attempt::from_pod::<&str>(client, stage.door.v4(), &[])?, client);
        let fruitless = || stage.fruitless(Attempt::from_pod(client, stage.door.v4(), &SHORT)?);
        table.row("iptables and nft emptied", || {
            stage.sh("nft flush ruleset; (iptables -F; iptables -t nat -F) 2>/dev/null || true")?;
            carried()
        });
        table.row("marks on everything", || {
            let rule = "nft add table inet t; nft add chain inet t o '{ type route hook output priority -150; }'; \
                        nft add rule inet t o meta mark set 0x539";
            with(stage, rule, "nft delete table inet t", carried)
        });
        table.row("a policy route around for marked packets", || {
            let rule = format!(
                "nft add table inet t; nft add chain inet t o '{{ type route hook output priority -150; }}'; \
                 nft add rule inet t o tcp dport {} meta mark set 0x539; \
                 ip rule add fwmark 0x539 lookup 100; ip route add default via {gateway} dev eth0 onlink table 100",
                stage::PORT
            );
            let undo = "nft delete table inet t; ip rule del fwmark 0x539 lookup 100; ip route flush table 100";
            with(stage, &rule, undo, carried)
        });
        table.row("a policy route before the local table", || {
            let rule = format!(
                "ip route add default via {gateway} dev eth0 onlink table 100; ip rule add pref 1 lookup local; \
                 ip rule del pref 0; ip rule add pref 0 lookup 100"
            );
            let undo = "ip rule add pref 0 lookup local; ip rule del pref 0 lookup 100; ip rule del pref 1; \
                        ip route flush table 100";
            with(stage, &rule, undo, fruitless)
        });
        table.row("the local route to its own address deleted", || {
            let first = format!("ip route del local {own} dev eth0 table local");
            let undo =
                format!("ip route add local {own} dev eth0 table local proto kernel scope host src {own}");
            with(stage, &first, &undo, fruitless)
        });
        table.row("its own address deleted", || {
            let first = format!("ip addr del {own}/32 dev eth0");
            let undo = format!(
                "ip addr add {own}/32 dev eth0; ip route replace default via {gateway} dev eth0 onlink"
            );
            with(stage, &first, &undo, fruitless)
        });
        table.row("everything to the agent's port redirected to a listener of the pod's", || {
            let trap = Door::open(client, 7005)?;
            let rule = format!(
                "nft add table ip t; nft add chain ip t o '{{ type nat hook output priority -100; }}'; \
                 nft add rule ip t o tcp dport '{CAPTURE_PORTS}' redirect to :7005"
            );
            with(stage, &rule, "nft delete table ip t", || {
                let attempt = Attempt::from_pod(client, stage.door.v4(), &SHORT)?;
                let said = trap.guest()?.line()?;
                ensure!(said == attempt.said, "{said}");
                let end = stage.fruitless(attempt)?;
                Ok(format!("it talks to itself; {end}"))
            })
        });
        table.row("the tunnel's port rejected", || {
            let rule = "nft add table inet t; nft add chain inet t o '{ type filter hook output priority 0; }'; \
                        nft add rule inet t o tcp dport 15008 reject with tcp reset";
            await_no_tunnel(stage)?;
            with(stage, rule, "nft delete table inet t", fruitless)
        });
        for device in ["eth0", "lo"] {
            table.row(&format!("a qdisc on {device} that drops everything"), || {
                await_no_tunnel(stage)?;
                let rule = format!("tc qdisc replace dev {device} root pfifo limit 0");
                // What is being dialled must not come up once the rule is gone.
                with(
                    stage,
                    &rule,
                    &format!("{{ {NO_TUNNEL}; }} || true; tc qdisc del dev {device} root"),
                    fruitless,
                )
            });
        }
        let filters = [
            ("the tunnel's port dropped by tc", "eth0", "match ip dport 15008 0xffff action drop"),
            ("15001 dropped by tc", "lo", "match ip dport 15001 0xffff action drop"),
            ("15104 to 15135 dropped by tc", "lo", "match ip dport 15104 0xffe0 action drop"),
        ];
        for (name, device, filter) in filters {
            let undo = format!("{{ {NO_TUNNEL}; }} || true; tc qdisc del dev {device} clsact");
            let rule = format!("tc filter add dev {device} egress protocol ip u32 {filter}");
            stage.sh(&format!("tc qdisc add dev {device} clsact"))?;
            if let Err(error) = stage.sh(&rule) {
                table.absent(name, &format!("this kernel has no such filter: {error:#}"));
                stage.sh(&undo)?;
                continue;
            }
            table.row(name, || {
                await_no_tunnel(stage)?;
                let attempt = Attempt::from_pod(client, stage.door.v4(), &SHORT)?;
                let said = stage.itself_or_nothing(attempt, client);
                stage.sh(&undo)?;
                said
            });
        }
        table.row("all of it undone", carried);
        Ok(())
    });
}

/// Ends the tunnels that are open, and those that are being dialled.
const NO_TUNNEL: &str = "ss -K dst :15008 >/dev/null 2>&1 || ss -K dport = 15008 >/dev/null";

/// Takes down the tunnels that are open and idle, so that the next connection needs a new one.
fn await_no_tunnel(stage: &Stage<'_>) -> Result<()> {
    stage::quiet(stage.near())?;
    stage.sh(NO_TUNNEL)?;
    Ok(())
}

#[test]
fn a_pod_that_rewrites_its_own_packets_reaches_nobody_of_the_mesh() {
    let test = "a_pod_that_rewrites_its_own_packets_reaches_nobody_of_the_mesh";
    stage::document(test, Lab::builder().node("a").node("b"), |stage, table| {
        let (client, to) = (&stage.client, stage.door.v4());
        table.row("DNAT of what goes to the agent's port", || {
            let rule = format!(
                "nft add table ip t; nft add chain ip t o '{{ type nat hook output priority -100; }}'; \
                 nft add rule ip t o tcp dport '{CAPTURE_PORTS}' dnat to {to}"
            );
            with(stage, &rule, "nft delete table ip t", || {
                let before = stage::refusals(stage.near(), "bypass")?;
                let end = stage.fruitless(Attempt::openly(client, to, &SHORT)?)?;
                let count = stage::refusals(stage.near(), "bypass")? - before;
                ensure!(count > 0, "nobody has counted it");
                Ok(format!("{count} stopped at the pod's device; {end}"))
            })
        });
        Ok(())
    });
}

#[test]
fn an_address_claimed_by_arp_is_not_an_identity() {
    let lab = Lab::builder().node("a").learned_neighbours().node("b");
    stage::document("an_address_claimed_by_arp_is_not_an_identity", lab, |stage, table| {
        let (client, victim) = (&stage.client, &stage.neighbour);
        let claimed = victim.v4();
        let own = Door::open(victim, 7006)?;
        let loot = {
            stage.sh(&format!("ip addr add {claimed}/32 dev eth0"))?;
            Door::open(client, 7006)?
        };
        let program = escapes::attempt::program()?.display().to_string();
        let claim = client.spawn([program.as_str(), "claim", "--address", &claimed.to_string()])?;
        let mac = stage.sh("ip -o link show dev eth0")?;
        let mac = mac
            .split("link/ether ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .context("a MAC")?
            .to_owned();
        table.row("nobody hears the claim", || {
            let before = stage::refusals(stage.near(), "spoofed_source")?;
            eventually(Duration::from_secs(20), || {
                // Somebody must have asked for the address before anybody would believe an answer.
                let _asks = Attempt::openly(&stage.stranger, own.v4(), &["--timeout-ms", "300"])
                    .and_then(Attempt::end);
                let now =
                    stage::refusals(stage.near(), "spoofed_source").map_err(|error| format!("{error:#}"))?;
                if now > before + 5 { Ok(()) } else { Err(format!("{} claims stopped", now - before)) }
            })
            .with_context(|| claim.failure_report())?;
            let known = client.node().command(["ip", "neigh", "show", &claimed.to_string()])?.run()?.text();
            ensure!(!known.contains(&mac), "{mac} is believed: {known}");
            Ok(known.trim().to_owned())
        });
        drain(&own);
        table.row("a captured peer's tunnel to the address never trusts who answers", || {
            let attempt = Attempt::from_pod(&stage.server, own.v4(), &["--timeout-ms", "3000"])?;
            // Whichever pod it reaches: what is said is heard by the victim, or by nobody.
            match own.guest_within(Duration::from_secs(4)) {
                Ok(guest) => {
                    ensure!(guest.line()? == attempt.said, "somebody else came");
                    guest.answer("heard")?;
                    loot.nobody()?;
                    attempt.end()?;
                    Ok("the victim's own agent served it".to_owned())
                }
                Err(_) => {
                    loot.nobody()?;
                    attempt.gets_nothing()
                }
            }
        });
        table.row("from the claimed address it is still itself", || {
            let words = ["--bind".to_owned(), format!("{claimed}:0"), "--timeout-ms".into(), "8000".into()];
            let attempt = Attempt::from_pod(client, stage.door.v4(), &words)?;
            let guest = stage.door.guest().with_context(|| attempt.report())?;
            ensure!(guest.line()? == attempt.said, "somebody else came");
            let row = guest.row(stage.far())?;
            ensure!(row["src"]["identity"] == identity(client).as_str(), "{row}");
            guest.answer("heard")?;
            attempt.end()?;
            Ok(format!("as {}", identity(client)))
        });
        table.row("plain text from outside the mesh to the claimed address is not the claimer's", || {
            let attempt = Attempt::openly(&stage.store, own.v4(), &["--timeout-ms", "3000"])?;
            let heard = own.guest_within(Duration::from_secs(4)).map(|guest| guest.answer("heard"));
            let end = attempt.end()?;
            loot.nobody()?;
            Ok(format!("{}: {end:?}", if heard.is_ok() { "the victim's" } else { "nobody's" }))
        });
        drop(claim);
        Ok(())
    });
}

fn drain(door: &Door) {
    while door.guest_within(Duration::ZERO).is_ok() {}
}

/// The pods' gateway, by what the client's routes say.
fn gateway(stage: &Stage<'_>) -> String {
    let routes = stage.sh("ip -4 route show default").unwrap();
    routes.split_whitespace().nth(2).unwrap().to_owned()
}
