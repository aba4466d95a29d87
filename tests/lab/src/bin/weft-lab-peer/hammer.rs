//! New connections at a steady rate, each with one small request to an echo server.
//!
//! The clock is open: connection `i` begins at `i / rate`, however slow the ones before it are, as far as the workers
//! reach; how late the latest began is reported.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use serde_json::json;

use crate::words;

const WORKERS: usize = 128;

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_: i32) {
    STOP.store(true, Ordering::Relaxed);
}

#[derive(Debug, Default)]
struct Tally {
    ok: u64,
    /// By step and errno, with the first time it happened.
    failed: BTreeMap<String, (u64, u64)>,
    latencies_us: Vec<u64>,
    latest: Duration,
}

pub(crate) fn run(to: SocketAddr, rate: u32, length: Duration, timeout: Duration) -> anyhow::Result<()> {
    let action = SigAction::new(SigHandler::Handler(stop), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler stores to an atomic, which is async-signal-safe.
    unsafe { sigaction(Signal::SIGTERM, &action) }?;
    let (next, tally) = (AtomicU64::new(0), Mutex::new(Tally::default()));
    let start = Instant::now();
    let worker = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let due = Duration::from_secs(number) / rate.max(1);
            if due >= length || !sleep_until(start + due) {
                return;
            }
            let late = start.elapsed().saturating_sub(due);
            let begun = Instant::now();
            let outcome = request(to, number, timeout);
            let micros = begun.elapsed().as_micros() as u64;
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.latest = tally.latest.max(late);
            match outcome {
                Ok(()) => {
                    tally.ok += 1;
                    tally.latencies_us.push(micros);
                }
                Err(reason) => {
                    let at = due.as_millis() as u64;
                    tally.failed.entry(reason).or_insert((0, at)).0 += 1;
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(worker);
        }
    });
    let mut tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    tally.latencies_us.sort_unstable();
    let failures: u64 = tally.failed.values().map(|(count, _)| count).sum();
    let by: serde_json::Map<String, serde_json::Value> = tally
        .failed
        .into_iter()
        .map(|(reason, (count, first))| (reason, json!({ "count": count, "first_at_ms": first })))
        .collect();
    let rank = |share: f64| {
        let index = (tally.latencies_us.len() as f64 * share) as usize;
        tally.latencies_us.get(index).or(tally.latencies_us.last()).copied()
    };
    let line = json!({
        "attempted": tally.ok + failures,
        "ok": tally.ok,
        "failed": failures,
        "by": by,
        "p50_us": rank(0.5),
        "p99_us": rank(0.99),
        "max_us": rank(1.0),
        "latest_ms": tally.latest.as_millis() as u64,
        "seconds": start.elapsed().as_secs_f64(),
    });
    println!("{line}");
    Ok(())
}

/// Whether to go on then: not after SIGTERM.
fn sleep_until(due: Instant) -> bool {
    loop {
        if STOP.load(Ordering::Relaxed) {
            return false;
        }
        match due.checked_duration_since(Instant::now()) {
            None => return true,
            Some(left) => thread::sleep(left.min(Duration::from_millis(50))),
        }
    }
}

/// One connection; what failed is named `STEP:ERRNO`.
fn request(to: SocketAddr, number: u64, timeout: Duration) -> Result<(), String> {
    let name = |step: &'static str| move |error: io::Error| format!("{step}:{}", words::errno(&error));
    let mut stream = TcpStream::connect_timeout(&to, timeout).map_err(name("connect"))?;
    stream.set_nodelay(true).map_err(name("option"))?;
    stream.set_read_timeout(Some(timeout)).map_err(name("option"))?;
    let line = format!("request {number}\n");
    stream.write_all(line.as_bytes()).map_err(name("write"))?;
    let mut answer = vec![0; line.len()];
    match stream.read_exact(&mut answer) {
        Ok(()) if answer == line.as_bytes() => Ok(()),
        Ok(()) => Err("read:garbled".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err("read:eof".to_owned()),
        Err(error) => Err(name("read")(error)),
    }
}
