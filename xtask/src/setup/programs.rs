//! The real programs that tests, demo and benches run, and the C compiler that rustls' cryptography is built with.

use super::apt::Apt;
use super::{Missing, Mode};
use crate::paths::{find_program, is_executable};
use crate::process;
use crate::ui::say;
use anyhow::Result;
use std::fs;
use std::io::Write as _;
use std::process::Stdio;

/// What is needed, how it is recognised, and which package brings it.
pub(super) struct Program {
    /// All of these have to be found.
    pub(super) binaries: &'static [&'static str],
    /// The first of these that the distribution has is installed.
    pub(super) packages: &'static [&'static str],
}

const PROGRAMS: &[Program] = &[
    Program { binaries: &["ip", "ss", "tc"], packages: &["iproute2"] },
    Program { binaries: &["nsenter", "setpriv", "unshare"], packages: &["util-linux"] },
    Program { binaries: &["mount", "umount"], packages: &["mount"] },
    Program { binaries: &["ps", "sysctl"], packages: &["procps"] },
    Program { binaries: &["curl"], packages: &["curl"] },
    Program { binaries: &["openssl"], packages: &["openssl"] },
    Program { binaries: &["nginx"], packages: &["nginx-light", "nginx"] },
    Program { binaries: &["tcpdump"], packages: &["tcpdump"] },
    Program { binaries: &["iperf3"], packages: &["iperf3"] },
    Program { binaries: &["wrk"], packages: &["wrk"] },
    Program { binaries: &["haproxy"], packages: &["haproxy"] },
    Program { binaries: &["redis-server"], packages: &["redis-server"] },
    Program { binaries: &["redis-cli", "redis-benchmark"], packages: &["redis-tools"] },
    Program { binaries: &["postgres", "initdb", "psql", "pgbench"], packages: &["postgresql"] },
    Program { binaries: &["mariadbd"], packages: &["mariadb-server"] },
    Program { binaries: &["mariadb"], packages: &["mariadb-client"] },
    Program { binaries: &["sshd"], packages: &["openssh-server"] },
    Program { binaries: &["ssh", "ssh-keygen"], packages: &["openssh-client"] },
    Program { binaries: &["nft"], packages: &["nftables"] },
    Program { binaries: &["iptables"], packages: &["iptables"] },
    Program { binaries: &["bpftool"], packages: &["bpftool", "linux-tools-generic"] },
];

/// What scrapes the lab, and the checker of rules that comes with it.
const PROMETHEUS: &[Program] =
    &[Program { binaries: &["prometheus", "promtool"], packages: &["prometheus"] }];

/// Is the program there? PostgreSQL's live in a directory of their version; Ubuntu's `bpftool` is there and does
/// nothing unless it suits the running kernel.
fn is_there(binary: &str) -> bool {
    match binary {
        "bpftool" => find_program(binary)
            .is_some_and(|path| process::output(process::command(path).arg("version")).is_some()),
        "postgres" | "initdb" | "pgbench" => {
            find_program(binary).is_some()
                || fs::read_dir("/usr/lib/postgresql")
                    .into_iter()
                    .flatten()
                    .flatten()
                    .any(|version| is_executable(&version.path().join("bin").join(binary)))
        }
        _ => find_program(binary).is_some(),
    }
}

fn absent(programs: &'static [Program]) -> Vec<(&'static Program, Vec<&'static str>)> {
    let lacking = |program: &'static Program| {
        let binaries: Vec<_> = program.binaries.iter().copied().filter(|binary| !is_there(binary)).collect();
        (program, binaries)
    };
    programs.iter().map(lacking).filter(|(_, binaries)| !binaries.is_empty()).collect()
}

/// Finds the test programs, or installs those that are missing, in one go.
pub(super) fn ensure(apt: &Apt, mode: Mode) -> Result<Vec<Missing>> {
    ensure_all("test programs", PROGRAMS, apt, mode)
}

/// The same for Prometheus.
pub(super) fn prometheus(apt: &Apt, mode: Mode) -> Result<Vec<Missing>> {
    ensure_all("Prometheus", PROMETHEUS, apt, mode)
}

/// The same for a table of one's own.
pub(super) fn ensure_all(
    what: &str,
    programs: &'static [Program],
    apt: &Apt,
    mode: Mode,
) -> Result<Vec<Missing>> {
    let before = absent(programs);
    if before.is_empty() {
        mode.found(what, &format!("all {} of them", programs.len()));
        return Ok(Vec::new());
    }
    let mut packages: Vec<String> = Vec::new();
    let mut unknown = Vec::new();
    for (program, binaries) in &before {
        match program.packages.iter().find(|package| apt.has(package)) {
            Some(package) => packages.push((*package).to_owned()),
            None => unknown.push((*program, binaries.clone())),
        }
    }
    if !packages.is_empty() {
        apt.install(what, &packages)?;
        let services = [
            "containerd",
            "nginx",
            "haproxy",
            "redis-server",
            "postgresql",
            "mariadb-server",
            "openssh-server",
            "prometheus",
        ];
        if packages.iter().any(|package| services.iter().any(|service| package.starts_with(service))) {
            say!("         their services are not started now; at the next boot your init system may");
        }
    }
    let left = if mode.dry_run { unknown } else { absent(programs) };
    for (_, binaries) in &left {
        mode.missing(binaries[0], apt.why_not());
    }
    Ok(left.into_iter().map(|(program, binaries)| missing(program, &binaries)).collect())
}

fn missing(program: &Program, binaries: &[&str]) -> Missing {
    Missing {
        what: format!("the program{} {}", if binaries.len() == 1 { "" } else { "s" }, binaries.join(", ")),
        remedy: format!(
            "apt-get install {}   (as root; elsewhere the package that brings it)",
            program.packages[0]
        ),
    }
}

/// aws-lc, the cryptography below rustls, is C: a compiler and the C library's headers, nothing else on amd64 and arm64.
pub(super) fn compiler(apt: &Apt, mode: Mode) -> Result<Option<Missing>> {
    if compiles() {
        mode.found("C compiler", "cc with the C library's headers");
        return Ok(None);
    }
    let packages = ["gcc", "libc6-dev"];
    if packages.iter().all(|package| apt.has(package)) {
        apt.install("C compiler", &packages.map(str::to_owned))?;
        if mode.dry_run || compiles() {
            return Ok(None);
        }
    }
    mode.missing("C compiler", apt.why_not());
    Ok(Some(Missing {
        what: "a C compiler with the C library's headers".to_owned(),
        remedy: "apt-get install gcc libc6-dev   (as root)".to_owned(),
    }))
}

fn compiles() -> bool {
    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let child = process::command(cc)
        .args(["-E", "-x", "c", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return false };
    let written = child.stdin.take().map(|mut input| input.write_all(b"#include <stdlib.h>\n"));
    let ended = child.wait().is_ok_and(|status| status.success());
    ended && written.is_some_and(|result| result.is_ok())
}
