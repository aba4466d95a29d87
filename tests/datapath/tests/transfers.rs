//! Promise: bytes arrive, all of them and in order: in bulk, in a crowd, and after a long silence.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use datapath::cast::Cast;
use datapath::conversation::{Host, say};
use datapath::seen;
use lab::row::Table;
use lab::{Lab, Pod, pattern, programs};
use serde_json::Value;

const TEST: &str = "bytes_arrive_whole_and_in_order";
const GIB: u64 = 1 << 30;
const LONG: Duration = Duration::from_secs(120);
/// Longer than a tunnel's keep-alive, with its answer overdue.
const SILENCE: Duration = Duration::from_secs(18);

#[test]
fn bytes_arrive_whole_and_in_order() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(whole_and_in_order);
}

fn whole_and_in_order(lab: &Lab) -> Result<()> {
    let cast = Cast::start(lab)?;
    // On a tunnel of its own, which is as silent as itself.
    let sleeper = lab.pod("shop/sleeper").node("a").service_account("sleeper").start()?;
    lab.await_captured(&sleeper)?;
    let server = &cast.server;
    let _sink = programs::peer(server, "sink", 9000, &[])?;
    let _source = programs::peer(server, "source", 9001, &["--bytes", &GIB.to_string()])?;
    let _echo = programs::peer(server, "echo", 9002, &[])?;
    let service = cast.service(lab, "server", &[(9000, 9000), (9001, 9001), (9002, 9002)])?;
    let at = |port| SocketAddr::new(service.v4().into(), port);
    let at6 = |port| SocketAddr::new(service.v6().into(), port);
    let wire = seen::watch_syns(lab, "b")?;

    let mut table = Table::new(TEST);
    let host = Host::start(server)?;
    let sleeping = host.converse(&sleeper, server.v4().into())?;
    say(&sleeping.client, &sleeping.server, b"before the silence")?;
    let silent_since = Instant::now();

    let digest = OnceCell::new();
    table.row("1 GiB up, IPv4 service", || {
        let said =
            run(&cast.client, &["source", "--to", &at(9000).to_string(), "--bytes", &GIB.to_string()])?;
        ensure!(said["match"] == true && said["error"].is_null(), "{said}");
        let _first = digest.set(said["sha256"].as_str().unwrap_or_default().to_owned());
        Ok(speed(GIB, &said))
    });
    table.row("1 GiB down, IPv6 service", || {
        let said = run(&cast.client, &["sink", "--to", &at6(9001).to_string()])?;
        ensure!(said["bytes"] == GIB && said["error"].is_null(), "{said}");
        ensure!(said["sha256"] == **digest.get_or_init(|| pattern::digest(GIB)), "another digest: {said}");
        Ok(speed(GIB, &said))
    });
    table.row("up and down at once, 256 MiB each", || {
        let (bytes, each) = (GIB / 4, (GIB / 4).to_string());
        let _source = programs::peer(server, "source", 9003, &["--bytes", &each])?;
        let (up, down) = thread::scope(|scope| {
            let up = scope
                .spawn(|| run(&cast.client, &["source", "--to", &at(9000).to_string(), "--bytes", &each]));
            let down =
                run(&cast.client, &["sink", "--to", &SocketAddr::new(server.v4().into(), 9003).to_string()]);
            (up.join().expect("the thread ends"), down)
        });
        let (up, down) = (up?, down?);
        ensure!(up["match"] == true && up["error"].is_null(), "up: {up}");
        ensure!(down["bytes"] == bytes && down["sha256"] == up["sha256"], "down: {down}, up: {up}");
        Ok(format!("up {}, down {}", speed(bytes, &up), speed(bytes, &down)))
    });
    table.row("500 connections at once, each with content of its own", || {
        let said = run(&cast.client, &["crowd", "--to", &at(9002).to_string(), "--connections", "500"])?;
        ensure!(said["ok"] == 500 && said["failed"] == 0, "{said}");
        Ok(format!("{} KiB each way on each, {:.1} s", 64, said["seconds"].as_f64().unwrap_or_default()))
    });
    table.row("the agents have forgotten them all but the silent one", || {
        for agent in lab.agents() {
            lab::eventually(Duration::from_secs(5), || {
                let rows = agent.connections().map_err(|error| format!("{error:#}"))?;
                if rows.len() == 1 { Ok(()) } else { Err(Value::from(rows).to_string()) }
            })?;
        }
        Ok(String::new())
    });
    table.row("a connection that was silent goes on", || {
        thread::sleep(SILENCE.saturating_sub(silent_since.elapsed()));
        let silence = silent_since.elapsed();
        say(&sleeping.client, &sleeping.server, b"after the silence, up")?;
        say(&sleeping.server, &sleeping.client, b"after the silence, down")?;
        Ok(format!("silent for {:.0} s", silence.as_secs_f64()))
    });
    table.row("all of it went through tunnels", || {
        seen::only_tunnels_to(wire, server, &[9000, 9001, 9002, 9003, host.port()])
    });
    table.finish();
    Ok(())
}

/// Runs `weft-lab-peer` in a pod.
fn run(pod: &Pod, arguments: &[&str]) -> Result<Value> {
    let words = ["weft-lab-peer"].iter().chain(arguments);
    pod.command(words)?.timeout(LONG).run()?.ok()?.json()
}

fn speed(bytes: u64, said: &Value) -> String {
    let seconds = said["seconds"].as_f64().unwrap_or(f64::NAN);
    format!("{seconds:.1} s, {:.0} MB/s", bytes as f64 / 1e6 / seconds)
}
