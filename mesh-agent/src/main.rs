//! `mesh-agent`: the node half of Weft.
//!
//! ```text
//!              ┌ kernel/    hooks and maps
//! control ─────┤ pods/      find, enroll, let go ──▶ capture/ ─┬─▶ outbound/ ─▶ relay/
//! (world)      └ admin/, metrics/, connections/                └─▶ inbound/  ─▶ relay/
//! ```
//!
//! This file only puts the stages together: flags, preflight, kernel, identity, data path, pods, admin. No stage knows
//! this one.

mod admin;
mod capture;
mod config;
mod connections;
mod control;
mod inbound;
mod kernel;
mod metrics;
mod netns;
mod outbound;
mod pace;
mod pods;
mod quiet;
mod relay;
mod socket;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use mesh_common::{CgroupEntry, Settings};
use mesh_hbone::Pool;
use mesh_identity::{Keyring, Roots, RotationConfig};
use mesh_model::World;
use mesh_model::route::RoundRobin;
use mesh_telemetry::http::Server;
use mesh_telemetry::logs;
use mesh_telemetry::metrics::Registry;
use mesh_telemetry::preflight::CheckStatus;
use mesh_telemetry::readiness::Ready;
use mesh_telemetry::shutdown;
use mesh_xds::client::{Client, ClientConfig};
use tokio::runtime::RuntimeFlavor;

use admin::Admin;
use capture::Acceptor;
use config::{Cli, Command, NodePaths, RunFlags, UnknownPods};
use connections::Connections;
use control::Control;
use inbound::Inbound;
use kernel::{Kernel, preflight};
use netns::Netns;
use outbound::Outbound;
use pods::PodsConfig;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Some(Command::Check { json }) => check(&cli.node, *json),
        Some(Command::Reset) => reset(&cli.node.bpffs),
        None => serve(&cli),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mesh-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(node: &NodePaths, json: bool) -> anyhow::Result<ExitCode> {
    let report = preflight::run(&node.cgroup_root()?, &node.bpffs);
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        for check in &report.checks {
            let remedy = check.remedy.as_deref().map(|r| format!(" ({r})")).unwrap_or_default();
            println!("{:4} {}: {}{remedy}", check.status.as_str(), check.name, check.message);
        }
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn reset(bpffs: &Path) -> anyhow::Result<ExitCode> {
    if !kernel::is_bpffs(bpffs) {
        bail!("{} is not on a bpffs: name the directory that holds weft/ with --bpffs", bpffs.display());
    }
    let removed = kernel::reset(bpffs).with_context(|| format!("cannot clear {}/weft", bpffs.display()))?;
    println!("{}", if removed { "all hooks detached, all pins removed" } else { "nothing was pinned" });
    Ok(ExitCode::SUCCESS)
}

fn serve(cli: &Cli) -> anyhow::Result<ExitCode> {
    let Some(node) = cli.run.node.clone().filter(|node| !node.is_empty()) else {
        let missing = "no node name: give --node, or set the environment variable NODE_NAME";
        Cli::command().error(ErrorKind::MissingRequiredArgument, missing).exit();
    };
    logs::init(cli.run.log_format, "info,h2=info")?;
    raise_descriptor_limit();
    runtime()?.block_on(run(&cli.node, &cli.run, node))?;
    Ok(ExitCode::SUCCESS)
}

/// Where the agent has one core, one thread: nothing is handed over, and what one turn of the loop brings goes out in
/// one write.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = if cores == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    builder.enable_all().build()
}

/// Two descriptors a connection: the hard limit is the node's business, the soft one ours.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

async fn run(paths: &NodePaths, flags: &RunFlags, node: String) -> anyhow::Result<()> {
    let started = Instant::now();
    if tokio::runtime::Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        tokio::spawn(pace::keep(Duration::from_micros(flags.spin_us.into())));
    }
    let cgroup = paths.cgroup_root()?;
    stop_if_unfit(&cgroup, &paths.bpffs)?;
    let shutdown = shutdown::signals().context("cannot listen for signals")?;
    let host = Netns::open(&flags.host_netns).with_context(|| {
        format!("cannot open the host's network namespace {} (--host-netns)", flags.host_netns.display())
    })?;

    // Whatever may be in the way comes before the hooks: an agent that cannot start leaves the node as it was.
    let socket = Server::unix(&flags.admin_socket).context("cannot serve meshctl (--admin-socket)")?;
    let metrics_port =
        Server::tcp(flags.metrics_listen).context("cannot serve metrics (--metrics-listen)")?;
    let ready_port = Server::tcp(flags.ready_listen).context("cannot serve readiness (--ready-listen)")?;
    let (client, events) = Client::spawn(ClientConfig {
        controller: flags.controller.clone(),
        server_name: mesh_xds::CONTROLLER_NAME.into(),
        roots: flags.root_cert.clone(),
        token_file: flags.token_file.clone(),
        node: node.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        initial: Vec::new(),
    });
    let roots = Roots::from_pem_file(&flags.root_cert);
    let rotation =
        RotationConfig { state_dir: Some(flags.state_dir.join("certs")), ..RotationConfig::default() };
    let keyring = Keyring::new(
        Arc::new(client.clone()),
        roots.as_ref().map_or_else(|_| Roots::none(), Roots::clone),
        rotation,
    )
    .context("cannot keep certificates (--state-dir)")?;
    if let Err(error) = roots {
        tracing::warn!(error = %outbound::Chain(&error), "no usable root certificate yet (--root-cert); waiting for it");
        tokio::spawn(await_roots(flags.root_cert.clone(), keyring.clone()));
    }

    let (mut kernel, maps) = Kernel::load(&paths.bpffs)?;
    let maps = Arc::new(maps);
    let settings = Settings {
        abi: Settings::ABI,
        world_complete: 0,
        allow_unknown: u32::from(flags.unknown_pods == UnknownPods::Allow),
        reserved: 0,
        host_cookie: host.cookie(),
    };
    let own =
        kernel::maps::cgroup_id(&config::own_cgroup()?).context("cannot look at the agent's own cgroup")?;
    maps.add_agent(own)?;
    maps.set_settings(settings)?;
    // With the first hook, who is below kubelet's cgroup is a pod.
    for directory in pods::kubepods(&cgroup) {
        let id = kernel::maps::cgroup_id(&directory).context("cannot look at kubelet's cgroup")?;
        maps.set_cgroup(id, CgroupEntry { netns_cookie: 0, state: CgroupEntry::KUBEPODS, reserved: 0 })?;
    }
    kernel.attach(&cgroup)?;
    maps.keep_only_agent(own)?;
    tracing::info!(%node, cgroup = %cgroup.display(), "hooks attached");

    let mut registry = Registry::new();
    let metrics = metrics::Metrics::register(&mut registry);
    let observed = metrics::Observed::register(&mut registry);
    let repairs = metrics::Repairs::register(&mut registry);
    let world = Arc::new(ArcSwap::from_pointee(World::default()));
    let connections = Connections::new(metrics.clone());
    let pool = Pool::new(mesh_hbone::ClientConfig::default());
    let outbound = Arc::new(Outbound {
        world: world.clone(),
        balancer: Box::new(RoundRobin::default()),
        pool: pool.clone(),
        keyring: keyring.clone(),
        connections: connections.clone(),
        maps: maps.clone(),
        metrics: metrics.clone(),
    });
    let inbound = Arc::new(Inbound {
        world: world.clone(),
        keyring: keyring.clone(),
        connections: connections.clone(),
        maps: maps.clone(),
        metrics,
        config: mesh_hbone::ServerConfig::default(),
        handshakes: inbound::Handshakes::default(),
    });
    let pods = pods::spawn(
        PodsConfig {
            node: node.clone(),
            cgroup: cgroup.clone(),
            pod_logs: flags.pod_logs.clone(),
            bootstrap_namespaces: flags.bootstrap_namespaces.clone(),
            host_cookie: host.cookie(),
            own_cgroup: own,
        },
        kernel,
        maps.clone(),
        keyring.clone(),
        client.clone(),
        Acceptor::new(outbound, inbound),
        repairs,
    )
    .context("cannot watch the node's cgroups")?;

    let ready = Ready::new();
    let known = ready.condition("world", "the controller has not told the whole world yet");
    let control = Control {
        node: node.clone(),
        world: world.clone(),
        maps: maps.clone(),
        settings,
        pods: pods.clone(),
        keyring: keyring.clone(),
        pool,
        rows: maps.service_keys().into_iter().map(|key| (key, Default::default())).collect::<HashMap<_, _>>(),
        unwritten: false,
        known,
    };
    tokio::spawn(control.run(events));

    let admin = Arc::new(Admin {
        node,
        controller: flags.controller.clone(),
        cgroup,
        bpffs: paths.bpffs.clone(),
        started,
        client,
        world,
        pods,
        connections,
        keyring,
        maps,
        observed,
    });
    let metrics = metrics_port.serve(admin::metrics_routes(&admin, Arc::new(registry)), shutdown.clone());
    let readiness = ready_port.serve(admin::ready_routes(&ready), shutdown.clone());
    tokio::try_join!(metrics, readiness, socket.serve(admin::admin_routes(&admin), shutdown))?;
    tracing::info!("stopped; hooks stay, captured pods are refused until an agent is back");
    Ok(())
}

fn stop_if_unfit(cgroup: &Path, bpffs: &Path) -> anyhow::Result<()> {
    let report = preflight::run(cgroup, bpffs);
    for check in report.checks.iter().filter(|check| check.status == CheckStatus::Warn) {
        tracing::warn!(check = check.name, "{}", check.message);
    }
    let failed: Vec<String> = report
        .failed()
        .map(|check| {
            format!("{}: {} ({})", check.name, check.message, check.remedy.as_deref().unwrap_or("no remedy"))
        })
        .collect();
    if failed.is_empty() { Ok(()) } else { bail!("this node cannot carry the mesh: {}", failed.join("; ")) }
}

/// The roots may come after the agent (a controller that starts with it makes them). Until then there are no certificates,
/// and captured pods are refused.
async fn await_roots(file: PathBuf, keyring: Keyring) {
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if let Ok(roots) = Roots::from_pem_file(&file) {
            tracing::info!(file = %file.display(), "root certificate found");
            return keyring.replace_roots(roots);
        }
    }
}
