//! Promise: every metric that docs/metrics.md names moves when what it counts happens. Here that is a mesh at work, whose agents
//! and controller go and come; what takes Kubernetes, or a node that somebody tampers with, moves in the test that is named for it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use lab::row::Table;
use lab::{Agent, Lab, Pod, eventually, programs};
use observe::names;
use observe::scrape::Scrape;
use observe::setting::{await_setting, configure, deny};
use observe::stage::{PORT, Stage, open, talk};
use observe::synthetic;
use serde_json::{Value, json};

/// The kernel's maps are counted every 15 s, its connections every five.
const SOON: Duration = Duration::from_secs(40);
const STEP: Duration = Duration::from_secs(10);
/// A port that nobody listens at.
const NOBODY: u16 = 9;
/// Where agents serve their tunnels.
const HBONE: u16 = 15008;
/// On each way.
const CONNECTIONS: usize = 10;
/// Each with an own pair of series, of which there may be 1,000.
const SERVICES: u16 = 60;
const VISITORS: usize = 16;
/// Where agents serve metrics.
const METRICS: u16 = 15020;
/// What moves elsewhere, and the test that looks.
const ELSEWHERE: [(&str, &str); 12] = [
    ("weft_root_expiry_timestamp_seconds", "tests/datapath/tests/root_rotation.rs"),
    ("weft_repairs_total", "tests/faults/src/meters.rs"),
    ("weft_pre_capture_sockets_total", "tests/datapath/tests/pre_capture_sockets.rs"),
    ("weft_controller_nacks_total", "mesh-controller/tests/agents/capture.rs"),
    ("weft_controller_sign_refusals_total", "mesh-controller/tests/agents/signing.rs"),
    ("weft_controller_unauthenticated_total", "mesh-controller/tests/agents/tokens.rs"),
    ("weft_controller_authority_rejected", "mesh-controller/tests/agents/authority.rs"),
    ("weft_controller_leader", "tests/kube/tests/controllers/mod.rs"),
    ("weft_controller_objects", "tests/kube/tests/watch.rs"),
    ("weft_controller_watch_restarts_total", "tests/kube/tests/watch.rs"),
    ("weft_controller_api_errors_total", "tests/kube/tests/watch.rs"),
    ("weft_controller_events_total", "tests/kube/tests/watch.rs"),
];

/// Whose metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    A,
    B,
    Controller,
}

/// Where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
    /// To another value.
    Other,
}

use At::{A, B, Controller};
use Way::{Down, Other, Up};

/// A metric, which of its labels count, and where it goes.
type Watched<'a> = (At, &'static str, &'a [&'a str], Way);

/// What happens, and what has been seen to move.
struct Story<'a> {
    lab: &'a Lab,
    table: &'a mut Table,
    seen: BTreeSet<&'static str>,
}

impl Story<'_> {
    /// Does something; then each of these has a row, and holds if it has moved. What was done is returned to be undone.
    fn when<T>(&mut self, what: &str, watched: &[Watched<'_>], act: impl FnOnce() -> Result<T>) -> Result<T> {
        let lab = self.lab;
        // Of those alone that are looked at again: others may be away.
        let before = watched.iter().map(|(at, ..)| scrape(lab, *at)).collect::<Result<Vec<_>>>()?;
        let done = act().with_context(|| what.to_owned())?;
        for ((at, name, labels, way), before) in watched.iter().zip(&before) {
            self.row(name, &format!("{what}: {name}"), || {
                let was = before.sum(name, labels);
                eventually(SOON, || {
                    let now = scrape(lab, *at).map_err(|error| format!("{error:#}"))?.sum(name, labels);
                    let words = format!("{was:?}, then {now:?}");
                    let Some(now) = now else { return Err(words) };
                    let has_moved = match way {
                        Up => now > was.unwrap_or_default(),
                        Down => was.is_some_and(|was| now < was),
                        Other => was != Some(now),
                    };
                    if has_moved { Ok(words) } else { Err(words) }
                })
            });
        }
        Ok(done)
    }

    fn row(&mut self, name: &'static str, words: &str, check: impl FnOnce() -> Result<String>) {
        self.seen.insert(name);
        self.table.row(words, check);
    }
}

fn scrape(lab: &Lab, at: At) -> Result<Scrape> {
    let text = match at {
        A => lab.agent("a").metrics(),
        B => lab.agent("b").metrics(),
        Controller => lab.controller().metrics(),
    };
    Ok(Scrape::parse(&text?))
}

#[test]
fn every_metric_moves() {
    const NAME: &str = "every_metric_moves";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(NAME);
        let stage = Stage::set(lab)?;
        let mut story = Story { lab, table: &mut table, seen: BTreeSet::new() };
        let guest = comings(&mut story)?;
        connections(&mut story, &stage, &guest)?;
        refusals(&mut story, &stage)?;
        losses(&mut story, &stage)?;
        series(&mut story, &stage)?;
        insides(&mut story, lab.agent("a"))?;
        restarts(&mut story, &stage)?;
        let seen = story.seen;
        table.row("every metric has a row above, or moves in the test that is named for it", || whole(&seen));
        table.finish();
        Ok(())
    });
}

/// A pod comes, and then a Service of it.
fn comings(story: &mut Story<'_>) -> Result<(Arc<Pod>, programs::Server)> {
    let lab = story.lab;
    let of_pod: [Watched<'_>; 11] = [
        (Controller, "weft_controller_workloads", &[], Up),
        (Controller, "weft_controller_pushes_total", &[], Up),
        (Controller, "weft_controller_acks_total", &[], Up),
        (Controller, "weft_controller_signed_total", &[], Up),
        (A, "weft_pods", &["state=\"captured\""], Up),
        (A, "weft_certificate_requests_total", &["result=\"signed\""], Up),
        (A, "weft_certificate_expiry_timestamp_seconds", &[], Up),
        (A, "weft_config_version", &[], Other),
        (A, "weft_config_timestamp_seconds", &[], Up),
        (A, "weft_config_updates_total", &["result=\"applied\""], Up),
        (A, "weft_map_entries", &["map=\"mesh_pods\""], Up),
    ];
    let guest = story.when("a pod comes", &of_pod, || {
        let guest = lab.pod("shop/guest").node("a").service_account("guest").label("app", "guest").start()?;
        let echo = programs::peer(&guest, "echo", PORT, &[])?;
        lab.await_captured(&guest)?;
        lab.await_peers_tunnel(&guest)?;
        Ok((guest, echo))
    })?;
    story.when("a Service comes", &[(Controller, "weft_controller_services", &[], Up)], || {
        lab.service("shop/one").port(80, PORT).select("app", "guest").create()
    })?;
    let of_sidecar: [Watched<'_>; 1] = [(A, "weft_pods_not_captured", &["reason=\"istio_sidecar\""], Up)];
    story.when("a pod with a sidecar comes", &of_sidecar, || {
        let sidecar = lab.pod("shop/sidecar").node("a");
        sidecar.annotation("sidecar.istio.io/status", "{\"containers\":[\"istio-proxy\"]}").start()
    })?;
    Ok(guest)
}

/// Connections on each way begin, go on for a while, and end; one finds nobody.
fn connections(
    story: &mut Story<'_>,
    stage: &Stage<'_>,
    (guest, _echo): &(Arc<Pod>, programs::Server),
) -> Result<()> {
    let outbound: &[&str] = &["direction=\"outbound\""];
    let beginning: [Watched<'_>; 16] = [
        (A, "weft_connections_opened_total", outbound, Up),
        (A, "weft_open_connections", outbound, Up),
        (A, "weft_bytes_total", outbound, Up),
        (A, "weft_connect_duration_seconds", outbound, Up),
        (A, "weft_kernel_events_total", &["event=\"redirected\""], Up),
        (A, "weft_metric_series", &[], Up),
        (A, "weft_pool_connections", &[], Up),
        (A, "weft_pool_streams", &[], Up),
        (A, "weft_tls_handshakes_total", &["role=\"client\"", "result=\"ok\""], Up),
        (A, "weft_tls_handshake_duration_seconds", &["role=\"client\""], Up),
        (A, "weft_runtime_tasks", &[], Up),
        (A, "weft_runtime_busy_seconds_total", &[], Up),
        (A, "process_cpu_seconds_total", &[], Up),
        (A, "process_open_fds", &[], Up),
        (B, "weft_open_connections", &["direction=\"inbound\""], Up),
        (B, "weft_tls_handshakes_total", &["role=\"server\"", "result=\"ok\""], Up),
    ];
    let held = story.when("connections begin", &beginning, || {
        let ways = stage.ways();
        let pairs = ways.iter().map(|way| (&way.from, &way.to)).chain([(guest, &stage.far)]);
        let many = pairs.flat_map(|pair| std::iter::repeat_n(pair, CONNECTIONS));
        many.map(|(from, to)| open(from, at(to, PORT))).collect::<Result<Vec<_>>>()
    })?;
    let ending: [Watched<'_>; 6] = [
        (A, "weft_connections_closed_total", outbound, Up),
        (A, "weft_open_connections", outbound, Down),
        (A, "weft_tcp_rtt_seconds", outbound, Up),
        (A, "weft_pool_streams", &[], Down),
        (A, "weft_runtime_tasks", &[], Down),
        (A, "process_open_fds", &[], Down),
    ];
    story.when("they end", &ending, || {
        drop(held);
        Ok(())
    })?;
    let failing = [(A, "weft_connections_failed_total", outbound, Up)];
    story.when("nobody listens", &failing, || refused(&stage.client, at(&stage.near, NOBODY)))
}

/// By policy, for want of a good object, and what would be refused.
fn refusals(story: &mut Story<'_>, stage: &Stage<'_>) -> Result<()> {
    let lab = story.lab;
    let denied: [Watched<'_>; 2] = [
        (B, "weft_kernel_refused_total", &["reason=\"policy\""], Up),
        (B, "weft_connections_failed_total", &["verdict=\"denied\""], Up),
    ];
    story.when("a policy refuses", &denied, || {
        deny(lab, "far")?;
        refused(&stage.far, at(&stage.near, PORT))
    })?;
    let wrong = "apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: wrong, namespace: shop}\nspec: {acton: DENY}\n";
    story.when("an object is wrong", &[(Controller, "weft_controller_config_errors", &[], Up)], || {
        lab.write_object("wrong.yaml", wrong)
    })?;
    story.when("it is gone", &[(Controller, "weft_controller_config_errors", &[], Down)], || {
        lab.remove_object("wrong.yaml")
    })?;
    let policy = "apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: trial, namespace: shop}\n\
         spec: {targetRefs: [{kind: Namespace}], action: DENY, mode: Audit, rules: [{sources: [{serviceAccount: {name: client}}]}]}\n";
    let audits: [Watched<'_>; 1] =
        [(B, "weft_policy_audits_total", &["policy=\"trial\"", "would=\"refuse\""], Up)];
    story.when("a policy would refuse", &audits, || {
        lab.write_object("trial.yaml", policy)?;
        // It is in force once both agents have it.
        for agent in lab.agents() {
            eventually(SOON, || {
                let rows = agent.admin("/v1/policies").map_err(|error| format!("{error:#}"))?;
                let has = rows.as_array().is_some_and(|rows| rows.iter().any(|row| row["name"] == "trial"));
                if has { Ok(()) } else { Err(rows.to_string()) }
            })?;
        }
        talk(&stage.client, &stage.far, 1)
    })
}

/// A segment that is lost on its way, and a handshake that does not go on.
fn losses(story: &mut Story<'_>, stage: &Stage<'_>) -> Result<()> {
    let shell = |line: &str| stage.near.exec(["sh", "-c", line])?.ok();
    let again: [Watched<'_>; 1] =
        [(A, "weft_tcp_retransmitted_segments_total", &["security=\"kernel\""], Up)];
    story.when("a segment is lost", &again, || {
        shell(&format!(
            "nft add table ip lost; nft add chain ip lost in '{{ type filter hook prerouting priority -300; }}'; \
             nft add rule ip lost in tcp dport {PORT} ip length '>' 500 limit rate 1/day burst 1 packets counter drop"
        ))?;
        talk(&stage.client, &stage.near, 1)?;
        let listed = shell("nft list table ip lost; nft delete table ip lost")?.text();
        ensure!(listed.contains("counter packets 1 "), "nothing was lost: {listed}");
        Ok(())
    })?;
    let pending = |way| [(A, "weft_handshakes_pending", &[] as &[&str], way)];
    let silent = story.when("a peer says nothing", &pending(Up), || {
        Ok(stage.outside.connect(at(&stage.near, HBONE), STEP)??)
    })?;
    story.when("it is gone", &pending(Down), || {
        drop(silent);
        Ok(())
    })
}

/// More pairs than there is room for.
fn series(story: &mut Story<'_>, stage: &Stage<'_>) -> Result<()> {
    let lab = story.lab;
    story.when("less room for series", &[(A, "weft_metric_max_series", &[], Down)], || {
        configure(lab, "metrics: {maxSeries: 1000}")?;
        await_setting(lab, "metrics.max_series", &json!(1000))
    })?;
    story.when("there is no more room", &[(A, "weft_metric_overflows_total", &[], Up)], || {
        for number in 0..SERVICES {
            let name = format!("many-{number}");
            let service = lab.service(&format!("shop/{name}")).port(80, PORT).select("app", "guest");
            let to = SocketAddr::new(service.create()?.v4().into(), 80);
            eventually(SOON, || {
                let rows = lab.agent("a").admin("/v1/services").map_err(|error| format!("{error:#}"))?;
                let has = rows.as_array().is_some_and(|rows| rows.iter().any(|row| row["name"] == *name));
                if has { Ok(()) } else { Err(format!("no Service {name}")) }
            })?;
            eventually(STEP, || open(&stage.client, to).map_err(|error| format!("{error:#}")))?;
        }
        Ok(())
    })
}

/// The agent by itself.
fn insides(story: &mut Story<'_>, agent: &Agent) -> Result<()> {
    let lab = story.lab;
    story.row("weft_build_info", "the version is the program's own", || {
        let built = scrape(lab, A)?.by("weft_build_info", "version");
        let said = lab.node("a").command([lab::binary("mesh-agent")?.as_os_str(), "--version".as_ref()])?;
        let said = said.run()?.ok()?.text();
        let (version, _) = built.first_key_value().context("no version")?;
        ensure!(said.split_whitespace().any(|word| word == version), "{version} is not in {said:?}");
        Ok(version.clone())
    });
    story.row("weft_map_max_entries", "as many entries fit in as the kernel says", || {
        let served = scrape(lab, A)?.by("weft_map_max_entries", "map");
        let bpffs = agent.admin("/v1/bpf")?["pins"].as_str().context("where the pins are")?.to_owned();
        for (map, entries) in &served {
            let pinned = format!("{bpffs}/maps/{map}");
            let shown = lab.node("a").command(["bpftool", "-j", "map", "show", "pinned", &pinned])?;
            let shown: Value = shown.run()?.ok()?.json()?;
            ensure!(shown["max_entries"].as_f64() == Some(*entries), "{map}: {entries}, not {shown}");
        }
        ensure!(!served.is_empty(), "no map");
        Ok(format!("{} maps", served.len()))
    });
    story.row("weft_runtime_queue_depth", "tasks wait while many come at once", || {
        let (deepest, began) = (AtomicU64::new(0), Instant::now());
        let goes_on = || deepest.load(Ordering::Relaxed) == 0 && began.elapsed() < SOON;
        let visits = || {
            let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS));
            while goes_on() {
                // Who is accepted waits for a thread, even if it is gone by then.
                let _gone = TcpStream::connect_timeout(&metrics, STEP);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..VISITORS {
                scope.spawn(|| agent.pod().netns_thread(visits));
            }
            while goes_on() {
                let text = agent.metrics().unwrap_or_default();
                let depth = Scrape::parse(&text).sum("weft_runtime_queue_depth", &[]);
                deepest.fetch_max(depth.unwrap_or_default() as u64, Ordering::Relaxed);
            }
        });
        let deepest = deepest.into_inner();
        ensure!(deepest > 0, "none ever waited");
        Ok(format!("{deepest} after {:.1?}", began.elapsed()))
    });
    Ok(())
}

/// Agents and the controller go and come.
fn restarts(story: &mut Story<'_>, stage: &Stage<'_>) -> Result<()> {
    let lab = story.lab;
    let (a, b) = (lab.agent("a"), lab.agent("b"));
    // Processors, descriptors, and a standard output that takes nothing are the agent's surroundings.
    let elsewhere: [Watched<'_>; 5] = [
        (B, "weft_runtime_workers", &[], Down),
        (B, "process_max_fds", &[], Other),
        (B, "process_start_time_seconds", &[], Up),
        (B, "process_resident_memory_bytes", &[], Other),
        (B, "process_virtual_memory_bytes", &[], Other),
    ];
    let agents = |way| [(Controller, "weft_controller_connected_agents", &[] as &[&str], way)];
    story.when("an agent has other surroundings", &elsewhere, || {
        b.kill();
        b.launch_under(&[
            "sh",
            "-c",
            "exec taskset -c 0 prlimit --nofile=1000:1000 \"$@\" > /dev/full",
            "sh",
        ])?;
        b.await_ready()
    })?;
    // Two agents may have as many by chance.
    story.row(
        "process_threads",
        "an agent has other surroundings: process_threads is what its kernel counts",
        || {
            eventually(SOON, || {
                let told = scrape(lab, B).map_err(|error| format!("{error:#}"))?.sum("process_threads", &[]);
                let pid = b.pid().ok_or("it does not run")?;
                let threads =
                    fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| error.to_string())?.count();
                let words = format!("{told:?}, and {threads}");
                if told == Some(threads as f64) { Ok(words) } else { Err(words) }
            })
        },
    );
    story.when("nobody takes its lines", &[(B, "weft_access_log_dropped_total", &[], Up)], || {
        refused(&stage.far, at(&stage.near, PORT))
    })?;
    story.when("an agent goes", &agents(Down), || {
        b.kill();
        // What it had on its disk goes with it.
        Ok(fs::remove_dir_all(b.cache_dir())?)
    })?;
    story.when("it comes again", &agents(Up), || b.start())?;
    story.when("the controller goes", &[(A, "weft_controller_connected", &[], Down)], || {
        lab.controller().kill();
        Ok(())
    })?;
    let alone: [Watched<'_>; 2] =
        [(A, "weft_world_cache_age_seconds", &[], Up), (B, "weft_world_complete", &[], Down)];
    story.when("agents start without it", &alone, || {
        b.kill();
        fs::remove_dir_all(b.cache_dir())?;
        b.launch()?;
        a.restart()
    })?;
    let together: [Watched<'_>; 3] = [
        (A, "weft_controller_connected", &[], Up),
        (A, "weft_world_cache_age_seconds", &[], Down),
        (B, "weft_world_complete", &[], Up),
    ];
    story.when("the controller comes again", &together, || lab.controller().start())
}

/// None is left out, and what is said to move elsewhere is looked at there.
fn whole(seen: &BTreeSet<&'static str>) -> Result<String> {
    let documented = names::documented()?;
    let all: BTreeSet<&str> = synthetic::FAMILIES
        .iter()
        .map(|family| family.name)
        .chain(documented.iter().map(String::as_str))
        .collect();
    for (name, file) in ELSEWHERE {
        let text = fs::read_to_string(observe::workspace().join(file)).with_context(|| file.to_owned())?;
        ensure!(text.contains(name), "{file} does not look at {name}");
    }
    let is_named = |name: &&str| seen.contains(name) || ELSEWHERE.iter().any(|(other, _)| other == name);
    let left_out: Vec<&str> = all.iter().filter(|name| !is_named(name)).copied().collect();
    if !left_out.is_empty() {
        bail!("no row moves {}", left_out.join(", "));
    }
    Ok(format!("{} of {}, and {} elsewhere", seen.len(), all.len(), ELSEWHERE.len()))
}

fn at(pod: &Pod, port: u16) -> SocketAddr {
    SocketAddr::new(pod.v4().into(), port)
}

fn refused(from: &Pod, to: SocketAddr) -> Result<()> {
    match from.connect(to, STEP)? {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => bail!("{} to {to}: {error}", from.key()),
        Ok(TcpStream { .. }) => bail!("{} to {to} is not refused", from.key()),
    }
}
