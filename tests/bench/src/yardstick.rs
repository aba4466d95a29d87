//! The yardstick: a pair of HAProxy that does by configuration what a pair of agents does by capture, so that a figure of
//! Weft can be read on any machine beside one of a program that everybody knows.
//!
//! ```text
//!   bench-yardstick/client on node a                    bench-yardstick/far on node b
//!   ┌ client ─▶ own address:P ─ HAProxy a ┐  TLS 1.3    ┌ own address:10000+P ─ HAProxy b ─▶ own address:P ─ server ┐
//!   └─────────────────────────────────────┘ ══════════▶ └─────────────────────────────────────────────────────────┘
//! ```
//!
//! Each stands where an agent's sockets stand: in the pod's network namespace, so that both have a leg over loopback, one
//! over the wire, one over loopback, and delivery is from 127.0.0.1. Each is one process with one thread, in a cgroup of
//! its own, whose CPU is read as an agent's is.
//!
//! Invariants: a figure is only taken if both processes' own counters show connections, bytes and TLS connections of the
//! window; each end shows a certificate of the bench's own authority and takes no other ([`certificates`]).
//! Not here: capture, the identity of workloads, policy, several connections in one. HAProxy has a TLS connection for each
//! connection of a client; sessions are resumed.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::Pod;
use lab::programs::{self, Server};

use crate::cpu;
use crate::window::Measure;

mod certificates;

/// The program, as it is called in tables and messages.
pub const PROGRAM: &str = "haproxy";
/// What a port of a server becomes where its HAProxy listens.
const TLS_PORTS: u16 = 10_000;
/// Counters are moved when the last byte of a connection is; this long a lag would be a bug.
const LAG: Duration = Duration::from_secs(2);
/// Until a control socket answers.
const ANSWER: Duration = Duration::from_secs(5);
/// Share of the program's bytes that must be in the counters: programs count headers and hellos in their own ways.
const SHARE: f64 = 0.95;

/// Both processes.
#[derive(Debug)]
pub struct Yardstick {
    /// The server's one first: it is there before the other dials it.
    proxies: [Proxy; 2],
    version: String,
}

/// One process.
#[derive(Debug)]
struct Proxy {
    server: Server,
    control: PathBuf,
}

/// What both processes have counted so far; of the server's one first.
#[derive(Clone, Copy, Debug)]
pub struct Counters([Carried; 2]);

/// What one process counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Carried {
    connections: u64,
    bytes: u64,
    /// Connections under TLS, in either role.
    tls: u64,
}

/// A port that is listened on, and where what comes in goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hop {
    listen: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
}

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Takes plain text of the client and dials with TLS.
    Client,
    /// Takes TLS and dials the server in plain text.
    Server,
}

impl Yardstick {
    /// Starts both and waits until they listen. `on_core` starts what it is given where programs of a node are to run.
    pub fn start(
        client: &Pod,
        server: &Pod,
        ports: &[u16],
        on_core: impl Fn(&str, &dyn Fn() -> Result<Server>) -> Result<Server>,
    ) -> Result<Self> {
        let authority = certificates::Authority::new()?;
        let start = |pod: &Pod, end: End| -> Result<Proxy> {
            let directory = pod.directory(PROGRAM)?;
            authority.write(&directory, end.name())?;
            let hops: Vec<Hop> = ports.iter().map(|&port| end.hop(client.v4(), server.v4(), port)).collect();
            let first = hops.first().context("a yardstick for no port")?.listen.1;
            let file = directory.join("haproxy.cfg");
            std::fs::write(&file, configuration(end, &directory, &hops))
                .with_context(|| format!("write {}", file.display()))?;
            let file = file.to_str().context("a path that is not UTF-8")?;
            let server = on_core(pod.node().name(), &|| {
                // A container of its own, so that its cgroup has nothing else in it.
                let command = pod.command_in_new_container([PROGRAM, "-db", "-f", file])?;
                programs::start(pod, command, first)
            })?;
            Ok(Proxy { server, control: control(&directory) })
        };
        let proxies = [
            start(server, End::Server).context("the server's haproxy")?,
            start(client, End::Client).context("the client's haproxy")?,
        ];
        let version = field(&ask(&proxies[0].control, "show info")?, "Version").map(str::to_owned);
        Ok(Self { proxies, version: version.context("haproxy tells no version")? })
    }

    /// As it says itself.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The processes' cgroups, in which nothing else is.
    pub fn cgroups(&self) -> Result<Vec<PathBuf>> {
        self.proxies.iter().map(|proxy| cpu::cgroup_of(proxy.server.process.pid())).collect()
    }

    /// Reads both processes' counters.
    pub fn counters(&self) -> Result<Counters> {
        let [server, client] = &self.proxies;
        Ok(Counters([server.carried()?, client.carried()?]))
    }

    /// Whether what the program did since then went through both; the error says what is missing.
    pub fn verify(&self, before: Counters, measure: &Measure) -> Result<()> {
        lab::eventually(LAG, || {
            let now = self.counters().map_err(|error| format!("{error:#}"))?;
            for (end, (now, before)) in ["server", "client"].iter().zip(now.0.iter().zip(&before.0)) {
                judge(measure, now.since(*before))
                    .map_err(|error| format!("the {end}'s haproxy: {error}"))?;
            }
            Ok(())
        })
        .context("this did not go through the yardstick")
    }
}

impl Proxy {
    fn carried(&self) -> Result<Carried> {
        let statistics = ask(&self.control, "show stat")?;
        let (connections, bytes) =
            frontends(&statistics).context("haproxy's statistics are not understood")?;
        let info = ask(&self.control, "show info")?;
        let tls = field(&info, "CumSslConns").and_then(|number| number.parse().ok());
        Ok(Carried { connections, bytes, tls: tls.context("haproxy counts no TLS connections")? })
    }
}

impl Carried {
    fn since(self, earlier: Self) -> Self {
        Self {
            connections: self.connections.saturating_sub(earlier.connections),
            bytes: self.bytes.saturating_sub(earlier.bytes),
            tls: self.tls.saturating_sub(earlier.tls),
        }
    }
}

fn judge(measure: &Measure, carried: Carried) -> Result<(), String> {
    let wanted = (measure.connections, measure.bytes as f64 * SHARE);
    let fewest = carried.connections.min(carried.tls);
    if fewest < wanted.0 || (carried.bytes as f64) < wanted.1 {
        return Err(format!(
            "{} connections, {} under TLS, and {} bytes counted; at least {} and {:.0} were made",
            carried.connections, carried.tls, carried.bytes, wanted.0, wanted.1
        ));
    }
    Ok(())
}

impl End {
    /// Of its certificate, which the other end verifies.
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client.yardstick.weft.dev",
            Self::Server => "server.yardstick.weft.dev",
        }
    }

    fn hop(self, client: Ipv4Addr, server: Ipv4Addr, port: u16) -> Hop {
        let tls = (server, port + TLS_PORTS);
        match self {
            Self::Client => Hop { listen: (client, port), to: tls },
            Self::Server => Hop { listen: tls, to: (server, port) },
        }
    }
}

/// What a competent operator would write for this job: [the README](../../../docs/benchmarks/README.md) has the reasons.
fn configuration(end: End, directory: &Path, hops: &[Hop]) -> String {
    let suites = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
    let directory = directory.display();
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn 4096\n  tune.bufsize 32768\n  stats socket {} mode 600 level user\n  \
         ssl-default-bind-ciphersuites {suites}\n  ssl-default-server-ciphersuites {suites}\n  \
         ssl-default-bind-options ssl-min-ver TLSv1.3\n  ssl-default-server-options ssl-min-ver TLSv1.3\n\
         defaults\n  mode tcp\n  option tcpka\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n",
        control(Path::new(&directory.to_string())).display()
    );
    let tls = format!("ssl crt {directory}/{OWN} ca-file {directory}/{ROOT} verify required");
    let (inbound, outbound) = match end {
        End::Client => (String::new(), format!(" {tls} verifyhost {}", End::Server.name())),
        End::Server => (format!(" {tls}"), " source 127.0.0.1".to_owned()),
    };
    for Hop { listen, to } in hops {
        let _ = write!(
            text,
            "listen port-{}\n  bind {}:{}{inbound}\n  server next {}:{}{outbound}\n",
            listen.1, listen.0, listen.1, to.0, to.1
        );
    }
    text
}

/// Key and certificate of one end, in one file as HAProxy wants it.
const OWN: &str = "own.pem";
/// The authority's certificate.
const ROOT: &str = "root.pem";

fn control(directory: &Path) -> PathBuf {
    directory.join("control.sock")
}

/// One question on a process's control socket.
fn ask(control: &Path, question: &str) -> Result<String> {
    let exchange = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(control)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(format!("{question}\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().with_context(|| format!("ask {} to {question}", control.display()))?;
    if answer.trim().is_empty() {
        bail!("{} has no answer to {question}", control.display());
    }
    Ok(answer)
}

/// A line of `show info`: `Name: value`.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::trim))
}

/// Connections and bytes, both ways, of all front ends in `show stat`: lines of CSV below a line of names.
fn frontends(statistics: &str) -> Option<(u64, u64)> {
    let mut lines = statistics.lines().filter(|line| !line.is_empty());
    let names: Vec<&str> = lines.next()?.strip_prefix("# ")?.split(',').collect();
    let column = |name: &str| names.iter().position(|one| *one == name);
    let (kind, connections) = (column("svname")?, column("stot")?);
    let bytes = [column("bin")?, column("bout")?];
    let mut sums = (0, 0);
    for line in lines {
        let values: Vec<&str> = line.split(',').collect();
        if *values.get(kind)? != "FRONTEND" {
            continue;
        }
        let number = |column: usize| values.get(column)?.parse::<u64>().ok();
        sums.0 += number(connections)?;
        sums.1 += number(bytes[0])? + number(bytes[1])?;
    }
    Some(sums)
}

#[cfg(test)]
mod tests;
