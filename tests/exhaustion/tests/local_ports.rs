//! Promise: new connections to one server pod do not run out of local ports, however long they go on at full speed: a
//! source address has 28,232 ports towards one destination, and a port that was used rests for a minute.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use exhaustion::cast::{Cast, PORT};
use lab::row::Table;
use lab::{Lab, Process};
use serde_json::Value;

const TEST: &str = "a_minute_of_new_connections_at_full_speed_does_not_run_out_of_ports";
const SECONDS: usize = 60;
/// Until everything is warm: tunnels, caches, the clients' threads.
const WARM_UP: usize = 2;
/// What is compared, from the beginning and from the end.
const SPAN: usize = 10;

#[test]
fn a_minute_of_new_connections_at_full_speed_does_not_run_out_of_ports() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let cast = Cast::start(lab)?;
        let start = |address: IpAddr| -> Result<Process> {
            let (to, seconds) = (SocketAddr::new(address, PORT).to_string(), SECONDS.to_string());
            cast.client.spawn(["weft-lab-peer", "rush", "--to", &to, "--seconds", &seconds])
        };
        // Both at the same time: they share nothing that could run out but the machine.
        let rushes = [("IPv4", start(cast.server.v4().into())?), ("IPv6", start(cast.server.v6().into())?)];
        let mut table = Table::new(TEST);
        for (family, rush) in rushes {
            table.row(family, || {
                let output = rush.wait(Duration::from_secs(SECONDS as u64 + 60))?.ok()?;
                goes_on(&output.json()?)
            });
        }
        table.finish();
        Ok(())
    });
}

fn goes_on(report: &Value) -> Result<String> {
    let seconds: Vec<u64> =
        report["per_second"].as_array().context("no seconds")?.iter().filter_map(Value::as_u64).collect();
    ensure!(seconds.len() == SECONDS, "{report}");
    ensure!(report["failed"] == 0, "{report}");
    let first: u64 = seconds[WARM_UP..WARM_UP + SPAN].iter().sum();
    let last: u64 = seconds[SECONDS - SPAN..].iter().sum();
    let total: u64 = seconds.iter().sum();
    ensure!(first > 0 && last * 3 >= first, "{first} in the first {SPAN} s, {last} in the last: {seconds:?}");
    let rate = |count: u64| count / SPAN as u64;
    Ok(format!("{total} connections, {} per second at first, {} at last", rate(first), rate(last)))
}
