//! Notes without an agent to ask, and a node that cannot vouch for its pods.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::row::Table;
use lab::{Lab, Pod, eventually};
use nix::sys::signal::Signal;
use policy::cast::{Cast, at};
use policy::counts::Counts;
use policy::enforce::put;
use policy::near::{CLIENT_ONLY, FAMILIES, goes, is_direct, node_shell, others_are_refused};
use policy::open::{Open, Quiet};

use crate::owners::forge;
use crate::{PATIENCE, PORT};

/// Pods may be taken in, or let go.
const LIVES: Duration = Duration::from_secs(20);

#[test]
fn direct_connections_need_no_agent_and_all_pods_guarded() {
    const TEST: &str = "direct_connections_need_no_agent_and_all_pods_guarded";
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let cast = Cast::start(lab)?;
        let mut table = Table::new(TEST);
        put(lab, CLIENT_ONLY)?;
        table.row(
            "the agent is killed: direct connections go on and begin, whoever is refused is refused",
            || agentless(lab, &cast),
        );
        table.row("no agent, and the address is another node's by now: nothing is on the wire", || {
            elsewhere(lab, &cast)
        });
        table.row("a pod that the API does not know: on the host's network it is no matter, in a namespace of its own it is", || {
            unknown(lab, &cast)
        });
        table.row("a pod to which the host's route leads elsewhere: tunnels, until it is gone", || {
            unguarded(lab, &cast, "shop/astray", |pod| {
                node_shell(pod, &format!("ip route add {}/32 dev wire", pod.v4()))?;
                Ok("which is not the pod's")
            })
        });
        table.row("a pod with a device that is no veth: tunnels, until it is gone", || {
            unguarded(lab, &cast, "yard/odd", |pod| {
                let netns = pod.netns();
                node_shell(
                    pod,
                    &format!(
                        "ip link add odd0 link cni0 type macvlan mode bridge; ip link set odd0 netns {netns}"
                    ),
                )?;
                Ok("is no veth")
            })
        });
        table.finish();
        Ok(())
    });
}

fn agentless(lab: &Lab, cast: &Cast) -> Result<String> {
    let agent = lab.agent("a");
    let counts = Counts::of(agent)?;
    let mut open = Vec::new();
    for (_, ipv6) in FAMILIES {
        open.push(Open::new(&cast.client, at(&cast.near, ipv6, PORT))?);
    }
    agent.kill();
    for (_, ipv6) in FAMILIES {
        let to = at(&cast.near, ipv6, PORT);
        open.push(Open::new(&cast.client, to).context("no agent is there")?);
        others_are_refused(cast, to)?;
        let quiet = Quiet::open(&cast.near, 7300 + u16::from(ipv6))?;
        forge(&cast.cart, at(&cast.client, ipv6, 22_000), at(&cast.near, ipv6, 7300 + u16::from(ipv6)))?;
        for one in &mut open {
            one.speak()?;
        }
        ensure!(quiet.accepted()? == 0, "the server has seen an accept");
    }
    agent.start()?;
    lab.await_captured(&cast.client)?;
    lab.await_captured(&cast.near)?;
    for one in &mut open {
        one.speak().context("the agent is back")?;
        eventually(PATIENCE, || is_direct(lab, one).map_err(|error| format!("{error:#}")))?;
    }
    // What the kernel counts outlives the agent.
    counts.ensure(&[("direct", 4), ("admitted", 4), ("steered_plaintext", 0), ("spoofed_source", 2)])?;
    Ok("2 went on, 2 began, all 4 are listed again".to_owned())
}

/// What the last tables call direct must not leave the node: here by a route, which is what an address that was given away has.
fn elsewhere(lab: &Lab, cast: &Cast) -> Result<String> {
    let (agent, to) = (lab.agent("a"), at(&cast.near, false, PORT));
    let counts = Counts::of(agent)?;
    agent.kill();
    let route = format!("{}/32 via {}", cast.near.v4(), lab.node("b").v4());
    node_shell(&cast.near, &format!("ip route add {route}"))?;
    let wire = lab.capture_wire_with("b", &format!("tcp port {PORT}"), 128)?;
    let dialled = cast.client.connect(to, Duration::from_secs(2));
    let seen = wire.stop()?;
    node_shell(&cast.near, &format!("ip route del {route}"))?;
    ensure!(dialled?.is_err(), "connected");
    let syns = seen.plaintext_syns_to(to.ip(), PORT);
    ensure!(syns == 0, "{syns} SYNs in plain text on the wire");
    Open::new(&cast.client, to).context("the route is as it was")?.speak()?;
    agent.start()?;
    lab.await_captured(&cast.client)?;
    lab.await_captured(&cast.near)?;
    let dropped = counts.since("bypass")?;
    ensure!(dropped >= 1, "nothing was dropped at the client's device");
    Ok(format!("{dropped} SYNs dropped at the client's device"))
}

/// A static pod has another UID at the API than in its cgroup's name.
fn unknown(lab: &Lab, cast: &Cast) -> Result<String> {
    await_direct(lab, cast)?;
    let beside = cast.near.cgroup().path().parent().context("a pod's cgroup is in another")?;
    let group = beside.join("pod5b1c7e0a-0d3e-4f6f-9d55-5a8d0c1f7a11");
    std::fs::create_dir(&group)?;
    let lives = |what: &str, wanted: &str| -> Result<()> {
        let procs = group.join("cgroup.procs");
        let start = format!("sh -c 'echo $$ > {} && exec {what}' >/dev/null 2>&1 & echo $!", procs.display());
        let pid: i32 = node_shell(&cast.near, &start)?.trim().parse()?;
        let seen = eventually(PATIENCE, || {
            let path = || -> Result<()> {
                let security = if wanted == "direct" { "kernel" } else { "mtls" };
                goes(lab, &Open::new(&cast.client, at(&cast.near, false, PORT))?, wanted, security)
            };
            // The agent looks within a second or so: it has to stay as it should be.
            std::thread::sleep(Duration::from_secs(2));
            path().map_err(|error| format!("{error:#}"))
        });
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL)?;
        eventually(LIVES, || {
            let left = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            if left.is_empty() { Ok(()) } else { Err(left) }
        })?;
        seen
    };
    let outcome = lives("sleep 30", "direct").context("on the host's network");
    let outcome =
        outcome.and_then(|()| lives("unshare --net sleep 30", "tunnel").context("in a namespace of its own"));
    // A killed process leaves its group a moment later.
    eventually(LIVES, || std::fs::remove_dir(&group).map_err(|error| error.to_string()))?;
    outcome?;
    await_direct(lab, cast)?;
    Ok(String::new())
}

/// A pod comes that cannot be guarded, and goes. `spoil` makes it so before its agent sees it, and knows what will be said of it.
fn unguarded(
    lab: &Lab,
    cast: &Cast,
    key: &str,
    spoil: impl FnOnce(&Pod) -> Result<&'static str>,
) -> Result<String> {
    let agent = lab.agent("a");
    let to = at(&cast.near, false, PORT);
    let mut before = await_direct(lab, cast)?;
    agent.signal(Signal::SIGSTOP)?;
    let spoiled = lab.pod(key).node("a").start().and_then(|pod| Ok((spoil(&pod)?, pod)));
    agent.signal(Signal::SIGCONT)?;
    let (why, pod): (_, Arc<Pod>) = spoiled?;
    let log = lab.place().logs().join("agent-a.log");
    let told = eventually(LIVES, || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let named = |line: &&str| line.contains("cannot be guarded") && line.contains(pod.uid());
        text.lines().find(named).map(str::to_owned).ok_or_else(|| format!("{}: nothing of it", log.display()))
    })?;
    ensure!(told.contains(why), "{told}");
    let by_tunnel = || goes(lab, &Open::new(&cast.client, to)?, "tunnel", "mtls");
    eventually(PATIENCE, || by_tunnel().map_err(|error| format!("{error:#}")))?;
    let counts = Counts::of(agent)?;
    for _ in 0..10 {
        by_tunnel()?;
    }
    counts.ensure(&[("direct", 0), ("admitted", 0)])?;
    others_are_refused(cast, to)?;
    let explained = agent.admin(&format!("/v1/explain?src=shop/client&dst=shop/near:{PORT}"))?;
    let mut steps = explained["steps"].as_array().into_iter().flatten();
    let step = steps.find(|step| step["step"] == "path").with_context(|| format!("no path: {explained}"))?;
    let detail = step["detail"].as_str().unwrap_or_default();
    ensure!(step["result"] == "tunnel" && detail.contains(key) && detail.contains(why), "{step}");
    before.speak().context("one that went directly before")?;
    is_direct(lab, &before)?;
    pod.delete()?;
    await_direct(lab, cast)?;
    Ok(detail.to_owned())
}

fn await_direct(lab: &Lab, cast: &Cast) -> Result<Open> {
    eventually(LIVES, || {
        let open = || -> Result<Open> {
            let open = Open::new(&cast.client, at(&cast.near, false, PORT))?;
            is_direct(lab, &open)?;
            Ok(open)
        };
        open().map_err(|error| format!("{error:#}"))
    })
    .context("wait for the direct path")
}
