//! The Prometheus of a demo: a real one, on node a, with the recording and alerting rules of `deploy/rules`.
//!
//! It reaches the agents and the controller as one in a cluster would, by their pods' addresses, and is reached itself by
//! the [doorway](super::doorway). All of it is in the lab's directory and cgroup, and goes with them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::User;

use super::doorway::Doorway;
use crate::eventually;
use crate::lab::Lab;
use crate::mesh::METRICS_PORT;
use crate::process::Process;
use crate::prometheus::{Client, Config, Target};

/// Between two scrapes: short, because whoever looks does not want to wait.
pub(super) const INTERVAL: Duration = Duration::from_secs(2);
/// The files of rules, all of them.
pub(super) const RULES: [(&str, &str); 3] = [
    ("recording.yaml", include_str!("../../../../../deploy/rules/recording.yaml")),
    ("alerting.yaml", include_str!("../../../../../deploy/rules/alerting.yaml")),
    ("istio.yaml", include_str!("../../../../../deploy/rules/istio.yaml")),
];
/// The node it runs on.
const NODE: &str = "a";
/// Where it listens, on that node's loopback.
const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);
/// It needs no rights, so it gets none.
const USER: &str = "nobody";
/// Until it answers: it writes and syncs files first.
const START: Duration = Duration::from_secs(60);

/// A Prometheus that runs.
#[derive(Debug)]
pub(super) struct Scraper {
    _process: Process,
    door: Doorway,
    /// Asks it.
    pub(super) client: Client,
    /// How many it scrapes.
    pub(super) targets: usize,
}

impl Scraper {
    /// Starts it, and waits until everything is scraped and every rule was evaluated.
    pub(super) fn start(lab: &Lab) -> Result<Self> {
        let door = Doorway::open(lab, NODE, ADDRESS)?;
        let directory = lab.place().dir().join("prometheus");
        let (file, data) = (directory.join("prometheus.yml"), directory.join("data"));
        std::fs::create_dir_all(&data)?;
        let user = User::from_name(USER)?.with_context(|| format!("no user {USER} on this machine"))?;
        chown(&data, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        let config = Config {
            interval: INTERVAL,
            targets: targets(lab),
            rules: write_rules(directory.join("rules"))?,
            netns: None,
        };
        std::fs::write(&file, config.yaml()?)?;
        let node = lab.node(NODE);
        let command = node.command([
            "prometheus".to_owned(),
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", data.display()),
            format!("--web.listen-address={ADDRESS}"),
            // Links in alerts lead to where a person can follow them.
            format!("--web.external-url={}", door.url()),
            "--storage.tsdb.retention.size=1GB".to_owned(),
            "--log.level=warn".to_owned(),
        ])?;
        let mut process = command.user(USER).log("prometheus").spawn()?;
        let client = Client::new(ADDRESS, Some(node.netns_path()));
        let up = eventually(START, || {
            if !process.is_running() {
                return Ok(Err(process.failure_report()));
            }
            client.ready().map(Ok).map_err(|error| format!("{error:#}"))
        });
        if let Err(report) = up.with_context(|| process.failure_report())? {
            bail!("it ended at once: {report}");
        }
        client.await_up(START).context("scrape the agents and the controller")?;
        Ok(Self { _process: process, door, client, targets: config.targets.len() })
    }

    /// What to open in a browser of this machine.
    pub(super) fn url(&self) -> String {
        self.door.url()
    }

    /// Where its door is.
    pub(super) fn address(&self) -> SocketAddr {
        self.door.address
    }

    /// Why not all is scraped and evaluated, if it is not.
    pub(super) fn complaint(&self) -> Option<String> {
        let read = || -> Result<Vec<String>> {
            let (up, mut wrong) = self.client.targets()?;
            if up.len() + wrong.len() != self.targets {
                wrong.push(format!("{} targets of {}", up.len() + wrong.len(), self.targets));
            }
            wrong.extend(self.client.rules()?.1);
            Ok(wrong)
        };
        match read() {
            Ok(wrong) => (!wrong.is_empty()).then(|| wrong.join("\n")),
            Err(error) => Some(format!("{error:#}")),
        }
    }
}

fn targets(lab: &Lab) -> Vec<Target> {
    let target = |job: &str, instance: &str, address: Ipv4Addr| Target {
        job: job.to_owned(),
        instance: instance.to_owned(),
        address: (address, METRICS_PORT).into(),
    };
    let agents = lab.agents().iter().map(|agent| target("weft-agent", agent.node(), agent.pod().v4()));
    let controllers = lab
        .controllers()
        .iter()
        .map(|controller| target("weft-controller", controller.pod().name(), controller.pod().v4()));
    agents.chain(controllers).collect()
}

fn write_rules(directory: PathBuf) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(&directory)?;
    let write = |(name, text): (&str, &str)| {
        let path = directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    };
    RULES.into_iter().map(write).collect()
}
