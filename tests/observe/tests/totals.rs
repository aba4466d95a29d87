//! A real Prometheus scrapes the agents while connections of known number and size go every way there is: what it has summed
//! up is what was sent.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::row::Table;
use lab::{Agent, Lab, eventually, programs};
use observe::prometheus::Prometheus;
use observe::promtool;
use observe::scrape::Scrape;
use observe::stage::{BYTES, PORT, Stage, Way, open, talk, total};

/// Bytes of open connections are this old at most, and a scrape comes every second.
const FRESH: Duration = Duration::from_secs(15);

/// Its labels in a query.
fn selector((node, direction, security): (&str, &str, &str), more: &str) -> String {
    format!("{{instance=\"{node}\",direction=\"{direction}\",security=\"{security}\"{more}}}")
}

/// An absent series counts as zero, but not while a scrape has failed: then all are absent.
fn sum(prometheus: &Prometheus, name: &str, selector: &str) -> Result<f64> {
    let up = prometheus.query("min(up)")?;
    ensure!(up.first().is_some_and(|up| up.value == 1.0), "a scrape has failed: {up:?}");
    let samples = prometheus.query(&format!("sum({name}{selector})"))?;
    Ok(samples.first().map_or(0.0, |sample| sample.value))
}

#[test]
fn prometheus_sums_up_what_was_sent() {
    const NAME: &str = "prometheus_sums_up_what_was_sent";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(NAME);
        let stage = Stage::set(lab)?;
        let prometheus = stage.prometheus()?;
        let names = ["weft_connections_opened_total", "weft_connections_closed_total", "weft_bytes_total"];
        let now = |seen, more: &str| -> Result<[f64; 3]> {
            let selector = selector(seen, more);
            Ok([
                sum(&prometheus, names[0], &selector)?,
                sum(&prometheus, names[1], &selector)?,
                sum(&prometheus, names[2], &selector)?,
            ])
        };
        let ways = stage.ways();
        // What was there before is in the second scrape from now, whichever way it took.
        std::thread::sleep(Duration::from_secs(3));
        let is = |seen| eventually(FRESH, || now(seen, "").map_err(|error| format!("{error:#}")));
        let before: Vec<Vec<[f64; 3]>> =
            ways.iter().map(|way| way.seen.iter().map(|seen| is(*seen)).collect()).collect::<Result<_>>()?;
        const CONNECTIONS: usize = 120;
        std::thread::scope(|scope| {
            let talks: Vec<_> = ways
                .iter()
                .map(|way| {
                    scope.spawn(|| {
                        // Over some twenty scrapes.
                        (0..CONNECTIONS / 6).try_for_each(|_| {
                            talk(&way.from, &way.to, 6)?;
                            std::thread::sleep(Duration::from_secs(1));
                            anyhow::Ok(())
                        })
                    })
                })
                .collect();
            talks.into_iter().try_for_each(|talk| talk.join().expect("no panic"))
        })?;
        let expected = [CONNECTIONS as f64, CONNECTIONS as f64, (2 * BYTES * CONNECTIONS) as f64];
        for (way, before) in ways.iter().zip(&before) {
            for (seen, before) in way.seen.iter().zip(before) {
                table.row(&format!("{}, {} at node {}", way.name, seen.1, seen.0), || {
                    eventually(FRESH, || {
                        let now = now(*seen, "").map_err(|error| format!("{error:#}"))?;
                        let came: Vec<f64> =
                            now.iter().zip(before).map(|(now, before)| now - before).collect();
                        let exact = came[0] == expected[0] && came[1] == expected[1];
                        let close = (came[2] - expected[2]).abs() <= expected[2] / 100.0;
                        let words = format!(
                            "opened {}, closed {}, bytes {} of {}",
                            came[0], came[1], came[2], expected[2]
                        );
                        if exact && close { Ok(words) } else { Err(words) }
                    })
                });
            }
        }
        for way in &ways {
            table.row(&format!("{}: what is open is counted while it is open", way.name), || {
                let seen = way.seen[0];
                let before = is(seen)?;
                let _open = open(&way.from, SocketAddr::new(way.to.v4().into(), PORT))?;
                let wanted = (2 * BYTES) as f64;
                eventually(FRESH, || {
                    let now = now(seen, "").map_err(|error| format!("{error:#}"))?;
                    let came = now[2] - before[2];
                    let is_open = sum(&prometheus, "weft_open_connections", &selector(seen, ""))
                        .map_err(|error| format!("{error:#}"))?;
                    let words = format!("{came} bytes of {wanted}, {is_open} open");
                    if (came - wanted).abs() <= wanted / 100.0 && is_open == 1.0 {
                        Ok(words)
                    } else {
                        Err(words)
                    }
                })
            });
        }
        table.row("connect latencies and round trips have been measured", || {
            for (way, name) in [(&ways[0], "connect"), (&ways[1], "connect"), (&ways[2], "connect")] {
                let count = format!("weft_{name}_duration_seconds_count");
                let count = sum(&prometheus, &count, &selector(way.seen[0], ""))?;
                ensure!(count >= CONNECTIONS as f64, "{}: {count} connects", way.name);
                let count = sum(&prometheus, "weft_tcp_rtt_seconds_count", &selector(way.seen[0], ""))?;
                ensure!(count >= CONNECTIONS as f64, "{}: {count} round trips", way.name);
            }
            Ok(String::new())
        });
        table.row("promtool finds nothing wrong with what is served", || {
            for agent in lab.agents() {
                promtool::check_metrics(&agent.metrics()?)?;
            }
            promtool::check_metrics(&lab.controller().metrics()?)?;
            Ok(String::new())
        });
        table.row("rules are evaluated", || {
            let (good, bad) = prometheus.rules()?;
            ensure!(bad.is_empty() && !good.is_empty(), "{bad:?}");
            Ok(format!("{} rules", good.len()))
        });
        restarts(&stage, &mut table)?;
        table.finish();
        Ok(())
    });
}

/// Over an agent's restart.
fn restarts(stage: &Stage<'_>, table: &mut Table) -> Result<()> {
    let agent = stage.lab.agent("a");
    let ways = stage.ways();
    let count = |way: &Way| -> Result<[u64; 3]> {
        let (_, direction, security) = way.seen[0];
        let mut labels = vec![format!("direction=\"{direction}\""), format!("security=\"{security}\"")];
        if way.in_kernel {
            labels.push(format!("source_workload=\"{}\"", way.from.name()));
        }
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let of = |name| total(agent, name, &labels);
        Ok([
            of("weft_connections_opened_total")?,
            of("weft_connections_closed_total")?,
            of("weft_bytes_total")?,
        ])
    };
    let gone = Gone::was_there(stage)?;
    let before = ways.iter().map(count).collect::<Result<Vec<_>>>()?;
    agent.kill();
    // While no agent is there.
    for way in ways.iter().filter(|way| way.in_kernel) {
        talk(&way.from, &way.to, 7)?;
    }
    agent.start()?;
    agent.await_ready()?;
    stage.lab.await_captured(&stage.client)?;
    stage.lab.await_captured(&stage.near)?;
    for (way, before) in ways.iter().zip(before) {
        let more = if way.in_kernel { 7 } else { 0 };
        table.row(&format!("{}: over an agent's death", way.name), || {
            eventually(FRESH, || {
                let now = count(way).map_err(|error| format!("{error:#}"))?;
                let expected = match way.in_kernel {
                    true => [before[0] + more, before[1] + more, before[2] + more * 2 * BYTES as u64],
                    // Counters begin anew, and count nothing twice.
                    false => [0; 3],
                };
                let close = now[2].abs_diff(expected[2]) <= expected[2] / 100;
                let words = format!("{now:?}, and {expected:?} is right");
                if now[..2] == expected[..2] && close { Ok(words) } else { Err(words) }
            })
        });
    }
    table.row("direct, of and to a pod that is gone: over an agent's death", || {
        eventually(FRESH, || {
            let now = Gone::amounts(agent).map_err(|error| format!("{error:#}"))?;
            let words = format!("{now:?}, and {:?} is right", gone.amounted);
            if now == gone.amounted { Ok(words) } else { Err(words) }
        })
    });
    table.row("nothing is open that is not, and nothing less than nothing", || {
        let text = agent.metrics()?;
        let open = text.lines().filter(|line| line.starts_with("weft_open_connections{"));
        let odd: Vec<&str> = open.filter(|line| !line.ends_with(" 0")).collect();
        ensure!(odd.is_empty(), "{odd:?}");
        Ok(String::new())
    });
    Ok(())
}

/// A pod of node a that has talked directly, and was talked to, and is gone.
struct Gone {
    amounted: [u64; 6],
}

impl Gone {
    const TALKS: u64 = 5;

    fn was_there(stage: &Stage<'_>) -> Result<Self> {
        let agent = stage.lab.agent("a");
        let guest = stage.lab.pod("shop/gone").node("a").service_account("gone").start()?;
        let echo = programs::peer(&guest, "echo", PORT, &[])?;
        stage.lab.await_captured(&guest)?;
        stage.lab.await_peers_tunnel(&guest)?;
        eventually(FRESH, || {
            let talked = talk(&guest, &stage.near, 1).and_then(|()| talk(&stage.client, &guest, 1));
            talked.map_err(|error| format!("{error:#}"))?;
            let amounts = Self::amounts(agent).map_err(|error| format!("{error:#}"))?;
            if amounts[0].min(amounts[3]) >= Self::TALKS { Ok(()) } else { Err(format!("{amounts:?}")) }
        })?;
        drop(echo);
        guest.delete()?;
        eventually(FRESH, || {
            let pods = agent.pods().map_err(|error| format!("{error:#}"))?;
            if pods.iter().any(|pod| pod["name"] == "gone") { Err(format!("{pods:?}")) } else { Ok(()) }
        })?;
        // Whose it was is on the node's disk within seconds: before the kernel forgets it, at the latest.
        let kept = agent.cache_dir().join("flows");
        eventually(FRESH * 2, || {
            let text = std::fs::read_to_string(&kept).map_err(|error| error.to_string())?;
            if text.contains("\"gone\"") { Ok(()) } else { Err(text) }
        })?;
        Ok(Self { amounted: Self::amounts(agent)? })
    }

    /// From it and to it: connections begun, ended, bytes.
    fn amounts(agent: &Agent) -> Result<[u64; 6]> {
        let scrape = Scrape::parse(&agent.metrics()?);
        let of = |name, end: &str| {
            let labels = ["security=\"kernel\"".to_owned(), format!("{end}=\"gone\"")];
            scrape.sum(name, &labels.each_ref().map(String::as_str)).unwrap_or_default() as u64
        };
        let each = |end| {
            let names =
                ["weft_connections_opened_total", "weft_connections_closed_total", "weft_bytes_total"];
            names.map(|name| of(name, end))
        };
        let ([a, b, c], [d, e, f]) = (each("source_workload"), each("destination_workload"));
        Ok([a, b, c, d, e, f])
    }
}
