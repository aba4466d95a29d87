//! Many connections to an echo server that are all open at once, each with content of its own that is compared.
//!
//! ```text
//! connect ─▶ all are connected ─▶ send a block, read it back, … ─▶ all have finished ─▶ end
//! ```

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::words;

const BLOCK: usize = 16 << 10;
/// Threads that mostly wait.
const STACK: usize = 128 << 10;

pub(crate) fn run(to: SocketAddr, connections: usize, bytes: usize, timeout: Duration) -> anyhow::Result<()> {
    let start = Instant::now();
    let gate = Barrier::new(connections);
    // By what failed, with how often.
    let failed: Mutex<BTreeMap<String, u64>> = Mutex::default();
    let worker = |number: usize| {
        let connected = connect(to, timeout);
        // Everybody is waited for, whoever has failed.
        gate.wait();
        let outcome = connected.and_then(|stream| exchange(&stream, number, bytes).map(|()| stream));
        gate.wait();
        if let Err(reason) = outcome.and_then(|stream| end(&stream)) {
            *failed.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
        }
    };
    thread::scope(|scope| {
        let worker = &worker;
        (0..connections).try_for_each(|number| {
            let spawned =
                thread::Builder::new().stack_size(STACK).spawn_scoped(scope, move || worker(number));
            // The others wait at the gate for the missing one: there is nothing to do but to end.
            spawned.map(drop).inspect_err(|error| {
                eprintln!("{number} threads, then: {error}");
                std::process::exit(1);
            })
        })
    })?;
    let by = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let failures: u64 = by.values().sum();
    let by: serde_json::Map<String, Value> =
        by.into_iter().map(|(reason, count)| (reason, count.into())).collect();
    let line = json!({
        "connections": connections,
        "ok": connections as u64 - failures,
        "failed": failures,
        "by": by,
        "bytes_each": bytes,
        "seconds": start.elapsed().as_secs_f64(),
    });
    println!("{line}");
    Ok(())
}

fn step(name: &'static str) -> impl Fn(io::Error) -> String {
    move |error| match error.kind() {
        io::ErrorKind::UnexpectedEof => format!("{name}:eof"),
        _ => format!("{name}:{}", words::errno(&error)),
    }
}

fn connect(to: SocketAddr, timeout: Duration) -> Result<TcpStream, String> {
    let stream = TcpStream::connect_timeout(&to, timeout).map_err(step("connect"))?;
    stream.set_read_timeout(Some(timeout)).map_err(step("option"))?;
    stream.set_write_timeout(Some(timeout)).map_err(step("option"))?;
    Ok(stream)
}

fn exchange(mut stream: &TcpStream, number: usize, bytes: usize) -> Result<(), String> {
    let (mut block, mut answer) = (vec![0; BLOCK], vec![0; BLOCK]);
    // Not the lab's one pattern: what belongs to another connection must not pass for ours.
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ ((number as u64 + 1) << 20);
    let mut left = bytes;
    while left > 0 {
        let count = left.min(BLOCK);
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        stream.write_all(&block[..count]).map_err(step("write"))?;
        stream.read_exact(&mut answer[..count]).map_err(step("read"))?;
        if block[..count] != answer[..count] {
            return Err("read:garbled".to_owned());
        }
        left -= count;
    }
    Ok(())
}

/// The stream must end cleanly, with nothing left over.
fn end(mut stream: &TcpStream) -> Result<(), String> {
    stream.shutdown(Shutdown::Write).map_err(step("shutdown"))?;
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err("end:more".to_owned()),
        Err(error) => Err(step("end")(error)),
    }
}
