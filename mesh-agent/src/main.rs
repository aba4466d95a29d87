//! `mesh-agent`: the node half of Weft.
//!
//! ```text
//!              ┌ kernel/    hooks and maps
//! control ─────┤ pods/      find, enroll, let go ──▶ capture/ ─┬─▶ outbound/ ─▶ relay/
//! (world)      ├ cache      the world, kept on disk             └─▶ inbound/  ─▶ relay/
//!              └ admin/, metrics/, connections/
//! ```
//!
//! This file only puts the stages together: flags, preflight, kernel, identity, data path, pods, admin. No stage knows
//! this one.

mod admin;
mod cache;
mod capture;
mod config;
mod connections;
mod control;
mod direct;
mod inbound;
mod kernel;
mod kubelet;
mod metrics;
mod netns;
mod outbound;
mod pace;
mod pods;
mod quiet;
mod relay;
mod roots;
mod settings;
mod sightings;
mod socket;

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use mesh_common::Settings;
use mesh_hbone::Pool;
use mesh_identity::{Keyring, RotationConfig};
use mesh_model::World;
use mesh_model::route::RoundRobin;
use mesh_telemetry::http::Server;
use mesh_telemetry::logs;
use mesh_telemetry::metrics::{Registry, Together};
use mesh_telemetry::preflight::{CheckStatus, Report};
use mesh_telemetry::readiness::Ready;
use mesh_telemetry::shutdown;
use mesh_xds::client::{Client, ClientConfig};
use tokio::runtime::RuntimeFlavor;
use tokio::sync::watch;

use admin::Admin;
use cache::Cache;
use capture::Acceptor;
use config::{Cli, Command, NodePaths, RunFlags};
use connections::{AccessLog, Connections};
use control::Control;
use direct::Direct;
use inbound::Inbound;
use kernel::lower::{Lowerer, Reserve};
use kernel::{Kernel, preflight};
use metrics::All;
use netns::{Diag, Netns};
use outbound::Outbound;
use pods::{PodsConfig, Unguarded};
use roots::RootFile;
use settings::{InForce, LeftMark};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Some(Command::Check { json }) => check(&cli.node, &cli.run, *json),
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

fn check(node: &NodePaths, flags: &RunFlags, json: bool) -> anyhow::Result<ExitCode> {
    let root = node.cgroup_root()?;
    let mut checks = preflight::run(&root, &node.bpffs).checks;
    // What keeps the host's namespace closed to this process keeps more from it than this row, and has rows of its own.
    if let Ok(host) = Netns::open(&flags.host_netns) {
        let place = kubelet::Place { host: Arc::new(host), root };
        checks.push(kubelet::check(&place, flags.kubelet_port));
    }
    let report = Report::new(checks);
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
    let runtime = runtime()?;
    let access = runtime.block_on(run(&cli.node, &cli.run, node))?;
    // What was still carried has its line now.
    drop(runtime);
    access.flush();
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

async fn run(paths: &NodePaths, flags: &RunFlags, node: String) -> anyhow::Result<AccessLog> {
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
    let host = Arc::new(host);
    let place = kubelet::Place { host: host.clone(), root: cgroup.clone() };

    // Whatever may be in the way comes before the hooks: an agent that cannot start leaves the node as it was.
    let socket = Server::unix(&flags.admin_socket).context("cannot serve meshctl (--admin-socket)")?;
    let remote = admin::remote::servers(&flags.remote, &host)?;
    let metrics_port =
        Server::tcp(flags.metrics_listen).context("cannot serve metrics (--metrics-listen)")?;
    let ready_port = Server::tcp(flags.ready_listen).context("cannot serve readiness (--ready-listen)")?;
    let cache = Cache::open(&flags.cache_dir, &node);
    let cached = cache.as_ref().and_then(Cache::load);
    let watch = pods::Watch::open()
        .context("cannot watch the node's cgroups (raise fs.inotify.max_user_instances of the node)")?;
    let (client, events) = Client::spawn(ClientConfig {
        controller: flags.controller.clone(),
        server_name: mesh_xds::CONTROLLER_NAME.into(),
        roots: flags.root_cert.clone(),
        token_file: flags.token_file.clone(),
        node: node.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        initial: cached.as_ref().map(|cached| cached.resources.clone()).unwrap_or_default(),
    });
    let (root_file, roots) = RootFile::open(&flags.root_cert, &flags.state_dir);
    let rotation = RotationConfig {
        state_dir: Some(flags.state_dir.join("certs")),
        disk_dir: Some(flags.cache_dir.join("certs")),
        ..RotationConfig::default()
    };
    let keyring = Keyring::new(Arc::new(client.clone()), roots, rotation)
        .context("cannot keep certificates (--state-dir)")?;
    tokio::spawn(root_file.clone().follow(keyring.clone()));

    // An agent that let go of the node attaches nothing when it is started again, until it hears that the mesh stays.
    let mark = LeftMark::at(&flags.state_dir);
    let away = mark.is_set();
    if away {
        kernel::reset(&paths.bpffs).context("cannot let go of the node")?;
        tracing::info!("the mesh was leaving when this node's agent ended: nothing is attached");
    }
    let by_flags = InForce::of(flags);
    let settings = Arc::new(ArcSwap::from_pointee(InForce { leaving: away, ..by_flags.clone() }));
    let is_first = cache.as_ref().is_some_and(Cache::is_new) && kernel::pinned_hooks(&paths.bpffs).is_empty();
    let (mut kernel, maps) = Kernel::load(&paths.bpffs, !away)?;
    let maps = Arc::new(maps);
    // What a predecessor told the hooks stays so until the world is known: what they settle without an agent goes on.
    let before = maps.settings()?;
    maps.set_settings(Settings {
        abi: Settings::ABI,
        allow_unknown: u32::from(by_flags.allow_unknown_pods),
        host_cookie: host.cookie(),
        ..before
    })?;
    let reserve: Reserve = {
        let maps = maps.clone();
        Box::new(move |next| maps.change_settings(|settings| settings.next_number = next))
    };
    let tables = maps.tables();
    let lowerer = Lowerer::new(tables.handles(), tables.left_behind(), before.next_number, reserve);
    let (local, locals) = watch::channel(Arc::default());
    let own = config::own_cgroup(&cgroup).context("cannot find the agent's own cgroup")?;
    let mut follower = kubelet::Follower::new(place.clone(), maps.clone(), settings.clone());
    follower.look();
    if !away {
        let kubepods = pods::kubepods(&cgroup);
        if is_first {
            let count = pods::spare_running(&maps, &kubepods)?;
            tracing::info!(
                count,
                "the first agent of this node: pods that run go on as they are until the world is known"
            );
        }
        kernel.take_hold(&maps, &cgroup, own, &kubepods)?;
        tracing::info!(%node, cgroup = %cgroup.display(), "hooks attached");
    }
    follower.spawn().context("cannot follow kubelet")?;

    let mut registry = Registry::new();
    let All { metrics, observed, insides, repairs, earlier } = All::register(&mut registry);
    let world = Arc::new(ArcSwap::from_pointee(World::default()));
    let lowered = Arc::new(ArcSwap::from_pointee(World::default()));
    let keeper = cache.and_then(|cache| cache.keep(world.clone(), settings.clone(), client.clone()));
    let cached_as_of = cached.as_ref().map(|cached| cached.as_of);
    let access =
        AccessLog::start(settings.clone()).context("cannot write access lines to standard output")?;
    let connections = Connections::new(metrics.clone(), access.clone());
    let direct = Arc::new(Direct {
        world: world.clone(),
        maps: maps.clone(),
        local: locals.clone(),
        connections: connections.clone(),
        metrics: metrics.clone(),
        counted: Default::default(),
        cut_flows: Default::default(),
        disk: Mutex::new(direct::Place::of(&flags.cache_dir, &maps).map(direct::Disk::at)),
        settled: Default::default(),
        cut: Default::default(),
        again: Default::default(),
    });
    let counts = direct.clone();
    direct.follow_events();
    direct.follow_endings();
    direct.follow_changes();
    tokio::spawn(sightings::tell(direct.clone(), client.clone()));
    let pool = Pool::new(mesh_hbone::ClientConfig::default());
    let outbound = Arc::new(Outbound {
        world: world.clone(),
        balancer: Box::new(RoundRobin::new(move || started.elapsed())),
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
        metrics: metrics.clone(),
        config: mesh_hbone::ServerConfig::default(),
        handshakes: inbound::Handshakes::default(),
        local: locals.clone(),
    });
    let ready = Ready::new();
    let known = ready.condition("world", "the controller has not told the whole world yet");
    let staying = ready.condition("mesh", "not started yet");
    staying.met();
    let pods = pods::spawn(
        PodsConfig {
            node: node.clone(),
            cgroup: cgroup.clone(),
            pod_logs: flags.pod_logs.clone(),
            settings: settings.clone(),
            host_cookie: host.cookie(),
            own_cgroup: own,
            mark,
            staying,
            world: world.clone(),
            earlier,
            obstacle: no_end(&host),
            host: host.clone(),
            local,
        },
        watch,
        kernel,
        maps.clone(),
        keyring.clone(),
        client.clone(),
        Acceptor::new(outbound, inbound.clone()),
        repairs,
    )
    .context("cannot watch the node's cgroups")?;

    let control = Control {
        node: node.clone(),
        world: world.clone(),
        lowered: lowered.clone(),
        maps: maps.clone(),
        flags: by_flags,
        settings: settings.clone(),
        client: client.clone(),
        pods: pods.clone(),
        connections: connections.clone(),
        metrics: metrics.clone(),
        direct: direct.clone(),
        keyring: keyring.clone(),
        pool: pool.clone(),
        lowerer: Arc::new(Mutex::new(lowerer)),
        local: locals.clone(),
        unwritten: false,
        known,
        cached,
        keeper: keeper.clone(),
        heard: false,
    };
    tokio::spawn(control.run(events));

    let admin = Arc::new(Admin {
        node,
        controller: flags.controller.clone(),
        place,
        settings,
        bpffs: paths.bpffs.clone(),
        started,
        client,
        world,
        lowered,
        pods,
        connections,
        direct,
        local: locals,
        keyring,
        root_file,
        maps,
        observed,
        insides,
        scrapes: Together::default(),
        metrics,
        pool,
        inbound,
        cached_as_of,
    });
    let registry = Arc::new(registry);
    let metrics = metrics_port.serve(admin::metrics_routes(&admin, &registry), shutdown.clone());
    let readiness = ready_port.serve(admin::ready_routes(&ready), shutdown.clone());
    for server in remote {
        tokio::spawn(server.serve(admin::admin_routes(&admin, &registry), shutdown.clone()));
    }
    tokio::try_join!(metrics, readiness, socket.serve(admin::admin_routes(&admin, &registry), shutdown))?;
    if let Some(keeper) = keeper {
        keeper.finish();
    }
    counts.finish();
    tracing::info!("stopped; hooks stay, captured pods are refused until an agent is back");
    Ok(access)
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

/// A kernel that cannot end a connection cannot take back what a policy admitted: then nothing goes past the agent that one
/// is about.
fn no_end(host: &Netns) -> Option<Unguarded> {
    let why = Diag::open(host).and_then(|diag| diag.can_destroy()).err()?;
    let why =
        format!("it cannot end connections that no policy admits any more (CONFIG_INET_DIAG_DESTROY): {why}");
    tracing::warn!(why, "no connection on this node goes directly");
    Some(Unguarded { what: "the kernel".into(), why })
}
