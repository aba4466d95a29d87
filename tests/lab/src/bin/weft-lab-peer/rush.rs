//! Connections as fast as they go: one after the other on each thread for a while, or one on each thread at the same moment.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::tally::{Tally, step};

/// For so long: connect, one byte there and back, close. This side closes first, so TIME_WAIT is on this side.
pub(crate) fn rush(
    to: SocketAddr,
    threads: usize,
    length: Duration,
    timeout: Duration,
) -> anyhow::Result<()> {
    let (start, tally) = (Instant::now(), Tally::default());
    let seconds: Vec<AtomicU64> = (0..=length.as_secs()).map(|_| AtomicU64::new(0)).collect();
    let worker = || {
        while start.elapsed() < length {
            let begun = Instant::now();
            let outcome = connect(to, timeout).and_then(|stream| exchange(&stream));
            let second = start.elapsed().as_secs() as usize;
            if outcome.is_ok()
                && let Some(count) = seconds.get(second)
            {
                count.fetch_add(1, Ordering::Relaxed);
            }
            tally.count(outcome.map(|()| begun.elapsed()));
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(worker);
        }
    });
    let mut report = tally.report();
    let seconds: Vec<u64> = seconds.into_iter().map(AtomicU64::into_inner).collect();
    // What finished after the end is no whole second.
    report.insert("per_second".into(), Value::from(&seconds[..length.as_secs() as usize]));
    println!("{}", Value::from(report));
    Ok(())
}

/// All threads connect at the same moment, `rounds` times. `silent`: nothing is said.
pub(crate) fn burst(
    to: SocketAddr,
    threads: usize,
    rounds: usize,
    silent: bool,
    timeout: Duration,
) -> anyhow::Result<()> {
    let (gate, tally) = (Barrier::new(threads), Tally::default());
    let worker = || {
        for _ in 0..rounds {
            gate.wait();
            let begun = Instant::now();
            let connected = connect(to, timeout);
            let took = begun.elapsed();
            let outcome = connected.and_then(|stream| {
                if !silent {
                    exchange(&stream)?;
                }
                Ok(stream)
            });
            // Nobody makes room before all are connected.
            gate.wait();
            tally.count(outcome.map(|_| took));
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(worker);
        }
    });
    println!("{}", Value::from(tally.report()));
    Ok(())
}

fn connect(to: SocketAddr, timeout: Duration) -> Result<TcpStream, String> {
    let stream = TcpStream::connect_timeout(&to, timeout).map_err(step("connect"))?;
    stream.set_read_timeout(Some(timeout)).map_err(step("option"))?;
    Ok(stream)
}

fn exchange(mut stream: &TcpStream) -> Result<(), String> {
    let mut byte = [0];
    stream.write_all(b"x").map_err(step("write"))?;
    stream.read_exact(&mut byte).map_err(step("read"))?;
    if byte == *b"x" { Ok(()) } else { Err("read:garbled".to_owned()) }
}
