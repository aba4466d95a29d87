//! MariaDB, PostgreSQL and Redis with data of their own, durability off: what is tested is their conversation.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{START, Server, owned_directory, start, text};
use crate::binaries;
use crate::pod::Pod;
use crate::process::Command;

/// MariaDB, a server that speaks first. User `lab` without a password may do everything in database `lab` from anywhere.
pub fn mariadb(pod: &Pod, port: u16) -> Result<Server> {
    let directory = owned_directory(pod, "mariadb", "mysql")?;
    let data = owned_directory(pod, "mariadb/data", "mysql")?;
    let data_flag = format!("--datadir={}", text(&data)?);
    let install = [
        "mariadb-install-db",
        "--no-defaults",
        &data_flag,
        "--user=mysql",
        "--skip-test-db",
        "--auth-root-authentication-method=normal",
    ];
    pod.command(install)?.timeout(START).run()?.ok()?;
    let init = directory.join("init.sql");
    std::fs::write(
        &init,
        "CREATE DATABASE IF NOT EXISTS lab;\nCREATE USER IF NOT EXISTS 'lab'@'%';\nGRANT ALL ON lab.* TO 'lab'@'%';\n",
    )?;
    let command = pod.command([
        "mariadbd",
        "--no-defaults",
        &data_flag,
        "--user=mysql",
        "--bind-address=*",
        "--skip-name-resolve",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-buffer-pool-size=16M",
        &format!("--port={port}"),
        &format!("--socket={}/socket", text(&directory)?),
        &format!("--pid-file={}/pid", text(&directory)?),
        &format!("--init-file={}", text(&init)?),
    ])?;
    start(pod, command, port)
}

/// A PostgreSQL that listens, and its programs for clients.
#[derive(Debug)]
pub struct Postgres {
    /// The server.
    pub server: Server,
}

/// PostgreSQL. User `postgres` without a password from anywhere.
pub fn postgres(pod: &Pod, port: u16) -> Result<Postgres> {
    const USER: &str = "postgres";
    let sockets = owned_directory(pod, "postgres", USER)?;
    let data = owned_directory(pod, "postgres/data", USER)?;
    // The server refuses a directory that others may read.
    std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let run = |arguments: &[&str]| -> Result<Command> {
        let program = postgres_program(arguments[0])?;
        let mut words = vec![text(&program)?.to_owned()];
        words.extend(arguments[1..].iter().map(|word| (*word).to_owned()));
        Ok(pod.command(words)?.user(USER).env("HOME", &sockets).directory(&sockets))
    };
    let data = text(&data)?;
    let init = ["initdb", "-D", data, "-U", USER, "--auth=trust", "-N", "-E", "UTF8", "--no-locale"];
    run(&init)?.timeout(START).run()?.ok()?;
    let rules = "local all all trust\nhost all all all trust\n";
    std::fs::write(std::path::Path::new(data).join("pg_hba.conf"), rules)?;
    let (port_text, socket_flag) = (port.to_string(), text(&sockets)?);
    let serve = [
        "postgres",
        "-D",
        data,
        "-p",
        &port_text,
        "-h",
        "*",
        "-k",
        socket_flag,
        "-F",
        "-c",
        "max_connections=200",
    ];
    Ok(Postgres { server: start(pod, run(&serve)?, port)? })
}

/// A program of PostgreSQL: on the path, or where Debian has the server's own.
fn postgres_program(name: &str) -> Result<PathBuf> {
    if let Some(path) = binaries::system(name) {
        return Ok(path);
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        versions.map(|version| version.path().join("bin").join(name)).filter(|path| path.is_file()).collect();
    found.sort();
    found.pop().with_context(|| format!("{name} is not installed: run `cargo xtask setup`"))
}

/// Redis, keeping nothing.
pub fn redis(pod: &Pod, port: u16) -> Result<Server> {
    let directory = pod.directory("redis")?;
    let command = pod.command([
        "redis-server",
        "--port",
        &port.to_string(),
        "--bind",
        "*",
        "-::*",
        "--protected-mode",
        "no",
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        text(&directory)?,
    ])?;
    start(pod, command, port)
}
