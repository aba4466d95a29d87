//! Promise: real programs talk through the mesh as they are, whoever of the two speaks first.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use datapath::cast::service;
use datapath::seen;
use lab::row::Table;
use lab::{Lab, Pod, programs};

const TEST: &str = "real_programs_talk_as_they_are";
const LONG: Duration = Duration::from_secs(60);
const POSTGRES: u16 = 5432;
const REDIS: u16 = 6379;
const MARIADB: u16 = 3306;
const SSH: u16 = 22;

#[test]
fn real_programs_talk_as_they_are() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(as_they_are);
}

fn as_they_are(lab: &Lab) -> Result<()> {
    lab.namespace("shop").captured()?;
    let client = lab.pod("shop/client").node("a").service_account("client").start()?;
    let server = lab.pod("shop/server").node("b").service_account("server").label("app", "server").start()?;
    lab.await_captured(&client)?;
    lab.await_captured(&server)?;
    lab.await_peers_tunnel(&server)?;
    let service = service(lab, &server, "server", &[POSTGRES, REDIS, MARIADB, SSH].map(|port| (port, port)))?;
    let (v4, v6) = (IpAddr::from(service.v4()), IpAddr::from(service.v6()));
    let wire = seen::watch_syns(lab, "b")?;

    // Each makes its files first: together they take as long as the slowest.
    let (postgres, mariadb) = thread::scope(|scope| {
        let mariadb = scope.spawn(|| programs::mariadb(&server, MARIADB));
        (programs::postgres(&server, POSTGRES), mariadb.join().expect("the thread ends"))
    });
    let _redis = programs::redis(&server, REDIS)?;
    let _sshd = programs::sshd(&server, SSH)?;

    let mut table = Table::new(TEST);
    table.row("PostgreSQL: pgbench makes its tables", || {
        postgres.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        pgbench(&client, v4, &["-i", "-q"]).map(|_| String::new())
    });
    table.row("PostgreSQL: pgbench, 8 clients", || {
        let said = pgbench(&client, v4, &["-n", "-c", "8", "-T", "3"])?;
        summary(&said)
    });
    table.row("PostgreSQL: pgbench, a connection per transaction, IPv6", || {
        let said = pgbench(&client, v6, &["-n", "-C", "-S", "-c", "4", "-t", "50"])?;
        summary(&said)
    });
    table.row("PostgreSQL: it sees the client's own address", || {
        let seen = psql(&client, v4, "select inet_client_addr()")?;
        ensure!(seen == client.v4().to_string(), "it saw {seen}");
        Ok(seen)
    });
    for (name, address) in [("Redis: redis-benchmark", v4), ("Redis: redis-benchmark, IPv6", v6)] {
        table.row(name, || redis_benchmark(&client, address));
    }
    for (name, address) in [("MariaDB: a query", v4), ("MariaDB: a query, IPv6", v6)] {
        table.row(name, || {
            mariadb.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
            let host = address.to_string();
            let query =
                ["mariadb", "--no-defaults", "-h", &host, "-u", "lab", "lab", "-Ne", "select 41+1, user()"];
            let said = client.exec(query)?.ok()?.text();
            let client = if address.is_ipv4() { client.v4().to_string() } else { client.v6().to_string() };
            ensure!(said.trim() == format!("42\tlab@{client}"), "{said}");
            Ok(said.trim().replace('\t', " for "))
        });
    }
    for (name, address) in [("sshd: its banner and key", v4), ("sshd: its banner and key, IPv6", v6)] {
        table.row(name, || host_key(&client, &server, address));
    }
    table.row("all of it went through tunnels", || {
        seen::only_tunnels_to(wire, &server, &[POSTGRES, REDIS, MARIADB, SSH])
    });
    table.finish();
    Ok(())
}

fn pgbench(client: &Pod, host: IpAddr, more: &[&str]) -> Result<String> {
    let (host, port) = (host.to_string(), POSTGRES.to_string());
    let words = ["pgbench", "-h", &host, "-p", &port, "-U", "postgres"];
    let words = words.iter().chain(more).chain(&["postgres"]);
    Ok(client.command(words)?.timeout(LONG).run()?.ok()?.text())
}

/// What pgbench has done: at least something, and nothing failed.
fn summary(said: &str) -> Result<String> {
    let after = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let failed = after("number of failed transactions:").unwrap_or("0");
    ensure!(failed.split(' ').next() == Some("0"), "failed: {failed}\n{said}");
    let done = after("number of transactions actually processed:").with_context(|| said.to_owned())?;
    ensure!(!done.starts_with('0'), "nothing was done\n{said}");
    Ok(format!("{done} transactions, {} per second", after("tps =").unwrap_or("?")))
}

fn psql(client: &Pod, host: IpAddr, query: &str) -> Result<String> {
    let (host, port) = (host.to_string(), POSTGRES.to_string());
    let words = ["psql", "-h", &host, "-p", &port, "-U", "postgres", "-Atc", query];
    Ok(client.exec(words)?.ok()?.text().trim().to_owned())
}

fn redis_benchmark(client: &Pod, host: IpAddr) -> Result<String> {
    let host = host.to_string();
    let words = [
        "redis-benchmark",
        "-h",
        &host,
        "-t",
        "ping,set,get,lpush,lrange_100",
        "-n",
        "2000",
        "-c",
        "20",
        "--csv",
    ];
    let output = client.command(words)?.timeout(LONG).run()?.ok()?;
    let (said, errors) = (output.text(), output.errors());
    ensure!(!said.to_lowercase().contains("error") && errors.is_empty(), "{said}\n{errors}");
    let rates: Vec<&str> = said.lines().skip(1).filter_map(|line| line.split('"').nth(3)).collect();
    ensure!(rates.len() >= 6, "{said}");
    Ok(format!("per second: {}", rates.join(", ")))
}

/// The server speaks first, keys are exchanged, and the key is the server's own.
fn host_key(client: &Pod, server: &Arc<Pod>, host: IpAddr) -> Result<String> {
    let (host, port) = (host.to_string(), SSH.to_string());
    let output = client.exec(["ssh-keyscan", "-T", "10", "-t", "ed25519", "-p", &port, &host])?.ok()?;
    let said = output.text();
    let own = std::fs::read_to_string(server.directory("sshd")?.join("key.pub"))?;
    let own = own.split(' ').nth(1).context("a key file without a key")?;
    ensure!(said.contains(own), "another key: {said}\n{}", output.errors());
    let banner =
        output.errors().lines().find_map(|line| line.split_once("SSH-2.0-")).map(|(_, rest)| rest.to_owned());
    // Newer versions write it to standard output.
    let banner =
        banner.or_else(|| said.lines().find_map(|line| Some(line.split_once("SSH-2.0-")?.1.to_owned())));
    banner
        .map(|name| format!("SSH-2.0-{name}"))
        .with_context(|| format!("no banner: {said}\n{}", output.errors()))
}
