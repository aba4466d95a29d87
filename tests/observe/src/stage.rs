//! Pods that talk every way there is, and a Prometheus that scrapes their agents.
//!
//! ```text
//!   node a: shop/client, shop/near (in the mesh)      node b: shop/far (in the mesh), yard/outside (not)
//!   tunnel: client ─▶ far    direct: client ─▶ near    left: client ─▶ outside    plaintext: outside ─▶ near
//! ```

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::{Agent, Lab, Pod, eventually, programs};

use crate::prometheus::{Config, Prometheus, Target};
use crate::rules;
use crate::scrape::Scrape;

/// Where every pod echoes.
pub const PORT: u16 = 7000;
/// Where agents serve metrics.
const METRICS: u16 = 15020;
const STEP: Duration = Duration::from_secs(10);
/// Per connection, one way.
pub const BYTES: usize = 20_000;

/// Who there is.
pub struct Stage<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// In the mesh, on node a.
    pub client: Arc<Pod>,
    /// Beside it.
    pub near: Arc<Pod>,
    /// In the mesh, on node b.
    pub far: Arc<Pod>,
    /// Not in the mesh, on node b.
    pub outside: Arc<Pod>,
    _echoes: Vec<programs::Server>,
}

/// One way that connections go, and where each of its ends is counted.
pub struct Way {
    /// What it is called.
    pub name: &'static str,
    /// Who dials.
    pub from: Arc<Pod>,
    /// Who answers.
    pub to: Arc<Pod>,
    /// Node, direction, security.
    pub seen: Vec<(&'static str, &'static str, &'static str)>,
    /// No agent carries it: its totals outlive the agent of node a.
    pub in_kernel: bool,
}

impl<'a> Stage<'a> {
    /// Starts them, and waits until everything goes as above.
    pub fn set(lab: &'a Lab) -> Result<Self> {
        lab.namespace("shop").captured()?;
        let pod =
            |key: &str, node: &str, account: &str| lab.pod(key).node(node).service_account(account).start();
        let client = pod("shop/client", "a", "client")?;
        let near = pod("shop/near", "a", "near")?;
        let far = pod("shop/far", "b", "far")?;
        let outside = lab.pod("yard/outside").node("b").start()?;
        let echoes = [&near, &far, &outside];
        let echoes = echoes.into_iter().map(|pod| programs::peer(pod, "echo", PORT, &[]));
        let echoes = echoes.collect::<Result<Vec<_>>>()?;
        for pod in [&client, &near, &far] {
            lab.await_captured(pod)?;
        }
        lab.await_peers_tunnel(&client)?;
        lab.await_peers_tunnel(&far)?;
        lab.await_peers_tunnel(&near)?;
        lab.await_excluded(&outside)?;
        let stage = Self { lab, client, near, far, outside, _echoes: echoes };
        stage.await_direct()?;
        Ok(stage)
    }

    /// Until connections between the node's pods go directly, which is soon: then nothing else is counted of them.
    fn await_direct(&self) -> Result<()> {
        let agent = self.lab.agent("a");
        eventually(STEP, || {
            let before = total(
                agent,
                "weft_connections_opened_total",
                &["direction=\"outbound\"", "security=\"kernel\""],
            );
            talk(&self.client, &self.near, 1).map_err(|error| format!("{error:#}"))?;
            let after = total(
                agent,
                "weft_connections_opened_total",
                &["direction=\"outbound\"", "security=\"kernel\""],
            );
            match (before, after) {
                (Ok(before), Ok(after)) if after > before => Ok(()),
                other => Err(format!("it went another way: {other:?}")),
            }
        })
    }

    /// All four.
    pub fn ways(&self) -> Vec<Way> {
        let way = |name, from: &Arc<Pod>, to: &Arc<Pod>, seen, in_kernel| Way {
            name,
            from: from.clone(),
            to: to.clone(),
            seen,
            in_kernel,
        };
        vec![
            way(
                "tunnel",
                &self.client,
                &self.far,
                vec![("a", "outbound", "mtls"), ("b", "inbound", "mtls")],
                false,
            ),
            way(
                "direct",
                &self.client,
                &self.near,
                vec![("a", "outbound", "kernel"), ("a", "inbound", "kernel")],
                true,
            ),
            way("left", &self.client, &self.outside, vec![("a", "outbound", "plaintext")], true),
            way("plaintext", &self.outside, &self.near, vec![("a", "inbound", "plaintext")], false),
        ]
    }

    /// Scrapes all agents and the controller every second, with our rules.
    pub fn prometheus(&self) -> Result<Prometheus> {
        let target = |job: &str, instance: &str, pod: &Pod| Target {
            job: job.into(),
            instance: instance.into(),
            address: SocketAddr::new(pod.v4().into(), METRICS),
        };
        let agents = self.lab.agents().iter().map(|agent| target("weft-agent", agent.node(), agent.pod()));
        let targets = agents.chain([target("weft-controller", "controller-0", self.lab.controller().pod())]);
        let prometheus = Prometheus::start(&Config {
            targets: targets.collect(),
            rules: rules::files()?,
            netns: Some(self.lab.node("a").netns_path()),
            ..Config::default()
        })?;
        prometheus.await_up(Duration::from_secs(30))?;
        Ok(prometheus)
    }
}

/// So many connections, each with [`BYTES`] there and back.
pub fn talk(from: &Pod, to: &Pod, connections: usize) -> Result<()> {
    let address = SocketAddr::new(IpAddr::from(to.v4()), PORT);
    for _ in 0..connections {
        let mut stream = open(from, address)?;
        stream.shutdown(Shutdown::Write)?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest)?;
        ensure!(rest.is_empty(), "{} bytes too many", rest.len());
    }
    Ok(())
}

/// One on which everything has been said and heard.
pub fn open(from: &Pod, to: SocketAddr) -> Result<TcpStream> {
    let mut stream = from.connect(to, STEP)?.with_context(|| format!("{} to {to}", from.key()))?;
    stream.set_read_timeout(Some(STEP))?;
    let words = vec![b'w'; BYTES];
    let mut heard = vec![0; BYTES];
    stream.write_all(&words)?;
    stream.read_exact(&mut heard)?;
    Ok(stream)
}

/// The sum of a metric's samples that have all of these labels; zero where there are none.
pub fn total(agent: &Agent, name: &str, labels: &[&str]) -> Result<u64> {
    Ok(Scrape::parse(&agent.metrics()?).sum(name, labels).unwrap_or_default() as u64)
}
