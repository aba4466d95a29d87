//! One window: a program runs on one side, and what it cost is read before and after.
//!
//! ```text
//!   neighbours, machine, relays' CPU ─▶ program ─▶ relays' CPU, machine, neighbours
//! ```

use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::Output;
use serde::Deserialize;

use crate::cpu::{self, MachineTime};
use crate::load::LoadReport;
use crate::neighbours::Neighbours;
use crate::stage::{self, Pair, Stage};
use crate::works::{Kind, Path, Work};

/// How long a program may take beyond its window until it is killed.
const GRACE: Duration = Duration::from_secs(20);

/// What a program said of itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    /// Units of work: GB (10^9 bytes), requests or connections.
    pub units: f64,
    /// Length of the window as the program measured it.
    pub seconds: f64,
    /// Bytes that passed between the applications, at the least.
    pub bytes: u64,
    /// Connections that were made, at the least.
    pub connections: u64,
    /// Median time of one unit, where the program tells.
    pub p50_us: Option<f64>,
    /// 99th percentile likewise.
    pub p99_us: Option<f64>,
}

/// A program's figures, and what was seen around it.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// The program's own figures.
    pub measure: Measure,
    /// CPU of what relays between client and server (the agents, or the yardstick); zero where nothing does.
    pub relays_cpu: Duration,
    /// CPU of the whole machine.
    pub machine: MachineTime,
    /// CPU seconds of processes that are not the bench's.
    pub others: f64,
}

impl Window {
    /// What the sides are compared by, in [`Work::figure_unit`].
    pub fn figure(&self, work: Work) -> f64 {
        let rate = self.measure.units / self.measure.seconds;
        match work.kind {
            _ if work.compares_times() => self.measure.p50_us.unwrap_or(f64::NAN),
            Kind::Throughput => rate * 8.0,
            Kind::Request | Kind::Connect | Kind::Http => rate,
        }
    }
}

/// Runs one window.
pub fn run(
    stage: &Stage,
    pair: &Pair,
    path: Path,
    work: Work,
    seconds: u32,
    neighbours: &mut Neighbours,
) -> Result<Window> {
    let others = neighbours.time();
    let machine = MachineTime::now()?;
    let relays = cpu::usage(&pair.relays)?;
    let measure = run_program(stage, pair, path, work, seconds)?;
    let relays_cpu = cpu::usage(&pair.relays)?.saturating_sub(relays);
    let machine = MachineTime::now()?.since(machine);
    let others = (neighbours.time() - others).max(0.0);
    Ok(Window { measure, relays_cpu, machine, others })
}

fn run_program(stage: &Stage, pair: &Pair, path: Path, work: Work, seconds: u32) -> Result<Measure> {
    let server = pair.address(path)?;
    let (width, time) = (work.width.to_string(), seconds.to_string());
    let load = stage.load_program()?;
    let to = |port: u16| format!("{server}:{port}");
    let run = |arguments: &[&str]| -> Result<Output> {
        let timeout = Duration::from_secs(seconds.into()) + GRACE;
        stage.on_client_core(|| pair.client.command(arguments)?.timeout(timeout).run())
    };
    let measure = match work.kind {
        Kind::Throughput => {
            let port = stage::IPERF_PORT.to_string();
            // Cookie and results go over a connection of their own.
            iperf(
                &run(&["iperf3", "-c", &server, "-p", &port, "-t", &time, "-P", &width, "-J"])?,
                work.width,
            )?
        }
        Kind::Request => {
            let to = to(stage::ECHO_PORT);
            let output = run(&[&load, "request", "--to", &to, "--connections", &width, "--seconds", &time])?;
            let report: LoadReport = output.ok()?.json()?;
            own(&report, u64::from(work.width))
        }
        Kind::Connect => {
            let to = to(stage::CLOSE_PORT);
            let output = run(&[&load, "connect", "--to", &to, "--threads", &width, "--seconds", &time])?;
            let report: LoadReport = output.ok()?.json()?;
            own(&report, report.count)
        }
        Kind::Http => {
            let url = format!("http://{}/{}", to(stage::HTTP_PORT), stage::HTTP_FILE);
            let (script, time) = (stage.wrk_script()?, format!("{seconds}s"));
            wrk(&run(&["wrk", "-t", "1", "-c", &width, "-d", &time, "-s", &script, &url])?.ok()?, work.width)?
        }
    };
    if !(measure.units > 0.0 && measure.seconds > 0.0) {
        bail!("nothing was done in this window: {measure:?}");
    }
    Ok(measure)
}

fn own(report: &LoadReport, connections: u64) -> Measure {
    Measure {
        units: report.count as f64,
        seconds: report.seconds,
        bytes: report.bytes,
        connections,
        p50_us: Some(report.p50_us),
        p99_us: Some(report.p99_us),
    }
}

/// What is used of `iperf3 -J`.
#[derive(Debug, Deserialize)]
struct Iperf {
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    end: IperfEnd,
}

#[derive(Debug, Default, Deserialize)]
struct IperfEnd {
    sum_received: Option<IperfSum>,
}

#[derive(Debug, Deserialize)]
struct IperfSum {
    seconds: f64,
    bytes: u64,
}

/// The receiver's figures: what the sender wrote may still be in buffers.
fn iperf(output: &Output, streams: u16) -> Result<Measure> {
    let text = output.text();
    let report: Iperf = serde_json::from_str(&text)
        .with_context(|| format!("iperf3 wrote no JSON: {text:?} {}", output.errors()))?;
    if let Some(error) = report.error {
        bail!("iperf3: {error}");
    }
    let sum = report.end.sum_received.with_context(|| format!("iperf3 has no sum_received: {text}"))?;
    Ok(Measure {
        units: sum.bytes as f64 / 1e9,
        seconds: sum.seconds,
        bytes: sum.bytes,
        connections: u64::from(streams) + 1,
        p50_us: None,
        p99_us: None,
    })
}

/// Written by [`WRK_SCRIPT`].
#[derive(Debug, Deserialize)]
struct Wrk {
    requests: u64,
    bytes: u64,
    duration_us: f64,
    /// connect, read, write, timeout, status.
    errors: [u64; 5],
    p50_us: f64,
    p99_us: f64,
}

/// Has wrk print its summary as JSON behind its own words. It defines no `request`, so nothing of it runs per request.
pub const WRK_SCRIPT: &str = r#"done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"bytes":%d,"duration_us":%d,"errors":[%d,%d,%d,%d,%d],"p50_us":%.1f,"p99_us":%.1f}\n',
    summary.requests, summary.bytes, summary.duration, e.connect, e.read, e.write, e.timeout, e.status,
    latency:percentile(50), latency:percentile(99)))
end
"#;

fn wrk(output: &Output, connections: u16) -> Result<Measure> {
    let text = output.text();
    let line = text.lines().rfind(|line| line.starts_with('{'));
    let line = line.with_context(|| format!("wrk wrote no summary: {text:?} {}", output.errors()))?;
    let report: Wrk = serde_json::from_str(line).with_context(|| format!("wrk's summary is {line}"))?;
    if report.errors != [0; 5] {
        bail!("wrk saw errors (connect, read, write, timeout, status): {:?}", report.errors);
    }
    Ok(Measure {
        units: report.requests as f64,
        seconds: report.duration_us / 1e6,
        bytes: report.bytes,
        connections: connections.into(),
        p50_us: Some(report.p50_us),
        p99_us: Some(report.p99_us),
    })
}
