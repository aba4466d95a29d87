//! What there is to say to a Prometheus, whoever runs it: its configuration, and questions over its API.
//!
//! ```text
//! Config ─ yaml ─▶ prometheus.yml
//! Client ─ GET ──▶ /api/v1/… at an address of the namespace that was named ─▶ samples, targets, rules
//! ```
//!
//! Not here: its process. A test's ends with the test (`tests/observe`), a demo's with its lab.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::netns::in_netns;
use crate::{admin, eventually};

/// What is scraped under one job.
#[derive(Clone, Debug)]
pub struct Target {
    /// `weft-agent` or `weft-controller`: rules and dashboards go by it.
    pub job: String,
    /// The label `instance`: a node's name, as the chart's PodMonitor has it.
    pub instance: String,
    /// Where, seen from the namespace.
    pub address: SocketAddr,
}

/// How it is to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Between two scrapes, and between two evaluations of rules.
    pub interval: Duration,
    /// What is scraped.
    pub targets: Vec<Target>,
    /// Files of rules.
    pub rules: Vec<PathBuf>,
    /// A file of `/run/netns` to run in; `None`: the caller's own namespace.
    pub netns: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), targets: Vec::new(), rules: Vec::new(), netns: None }
    }
}

impl Config {
    /// The configuration file: one job a name, the instance as a label of its own.
    pub fn yaml(&self) -> Result<String> {
        let milliseconds = self.interval.as_millis();
        let mut text = format!(
            "global:\n  scrape_interval: {milliseconds}ms\n  scrape_timeout: {milliseconds}ms\n  evaluation_interval: {milliseconds}ms\n"
        );
        if !self.rules.is_empty() {
            text.push_str("rule_files:\n");
            for path in &self.rules {
                writeln!(text, "  - {}", serde_json::to_string(path)?)?;
            }
        }
        text.push_str("scrape_configs:\n");
        let mut jobs: Vec<&str> = self.targets.iter().map(|target| target.job.as_str()).collect();
        jobs.sort_unstable();
        jobs.dedup();
        for job in jobs {
            writeln!(text, "  - job_name: {}\n    static_configs:", serde_json::to_string(job)?)?;
            for target in self.targets.iter().filter(|target| target.job == job) {
                let instance = serde_json::to_string(&target.instance)?;
                let address = target.address;
                writeln!(text, "      - targets: [\"{address}\"]\n        labels: {{instance: {instance}}}")?;
            }
        }
        Ok(text)
    }
}

/// One element of an instant vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its labels, with `__name__` where there is one.
    pub labels: BTreeMap<String, String>,
    /// Its value; not a number where Prometheus says so.
    pub value: f64,
}

/// Who asks a Prometheus.
#[derive(Clone, Debug)]
pub struct Client {
    address: SocketAddr,
    netns: Option<PathBuf>,
}

impl Client {
    /// One that asks at an address; of the network namespace with this file, or of the caller's own.
    pub fn new(address: SocketAddr, netns: Option<PathBuf>) -> Self {
        Self { address, netns }
    }

    /// Where it listens, in its namespace.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it answers.
    pub fn ready(&self) -> Result<()> {
        self.get("/-/ready").map(drop)
    }

    /// The instant vector of an expression, now. A scalar is one sample without labels.
    pub fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        self.query_with(&format!("query={}", encoded(expression)))
            .with_context(|| format!("query {expression}"))
    }

    /// The same at a time in seconds since the epoch.
    pub fn query_at(&self, expression: &str, time: f64) -> Result<Vec<Sample>> {
        self.query_with(&format!("query={}&time={time}", encoded(expression)))
            .with_context(|| format!("query {expression} at {time}"))
    }

    /// The only value of an expression.
    pub fn value(&self, expression: &str) -> Result<f64> {
        match self.query(expression)?.as_slice() {
            [one] => Ok(one.value),
            other => bail!("{expression} has {} values and not one", other.len()),
        }
    }

    fn query_with(&self, parameters: &str) -> Result<Vec<Sample>> {
        let answer = self.api(&format!("query?{parameters}"))?;
        let result = &answer["result"];
        match answer["resultType"].as_str() {
            Some("vector") => result.as_array().context("no result")?.iter().map(sample).collect(),
            Some("scalar") => Ok(vec![Sample { labels: BTreeMap::new(), value: number(&result[1])? }]),
            other => bail!("a result of type {other:?}"),
        }
    }

    /// Fails with Prometheus' words if it cannot parse the expression.
    pub fn parse(&self, expression: &str) -> Result<()> {
        self.api(&format!("format_query?query={}", encoded(expression)))
            .map(drop)
            .with_context(|| format!("parse {expression}"))
    }

    /// Targets that are up, and those that are not with why.
    pub fn targets(&self) -> Result<(Vec<String>, Vec<String>)> {
        let answer = self.api("targets?state=active")?;
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for target in answer["activeTargets"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let instance = text(&target["labels"]["instance"]);
            match target["health"].as_str() {
                Some("up") => up.push(instance),
                _ => down.push(format!("{instance}: {} {}", target["health"], text(&target["lastError"]))),
            }
        }
        Ok((up, down))
    }

    /// Waits until every target was scraped and none is down.
    pub fn await_up(&self, deadline: Duration) -> Result<()> {
        eventually(deadline, || match self.targets() {
            Ok((up, down)) if down.is_empty() && !up.is_empty() => Ok(()),
            Ok((_, down)) => Err(format!("down: {down:?}")),
            Err(error) => Err(format!("{error:#}")),
        })
    }

    /// Rules that were evaluated, and those that could not be with why. One that was not evaluated yet is in neither.
    pub fn rules(&self) -> Result<(Vec<String>, Vec<String>)> {
        let answer = self.api("rules")?;
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        let groups = answer["groups"].as_array().cloned().unwrap_or_default();
        for rule in groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten()) {
            let name = rule["name"].as_str().unwrap_or_default();
            match rule["health"].as_str() {
                Some("ok") => good.push(name.to_owned()),
                Some("err") => bad.push(format!("{name}: {}", rule["lastError"])),
                _ => {}
            }
        }
        Ok((good, bad))
    }

    fn api(&self, path: &str) -> Result<Value> {
        let answer: Value = serde_json::from_slice(&self.get(&format!("/api/v1/{path}"))?)?;
        ensure!(answer["status"] == "success", "{answer}");
        Ok(answer["data"].clone())
    }

    fn get(&self, path: &str) -> Result<Vec<u8>> {
        inside(self.netns.as_deref(), || admin::get_tcp(self.address, path))?
    }
}

/// Runs something in the network namespace with this file, on a thread of its own; sockets that it makes stay there.
pub fn inside<T: Send>(netns: Option<&Path>, work: impl FnOnce() -> T + Send) -> Result<T> {
    let Some(path) = netns else { return Ok(work()) };
    let namespace = File::open(path).with_context(|| format!("open {}", path.display()))?;
    in_netns(namespace.as_fd(), work).with_context(|| format!("in {}", path.display()))
}

fn sample(element: &Value) -> Result<Sample> {
    let labels = element["metric"].as_object().context("no labels")?;
    let labels = labels.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().into()));
    Ok(Sample { labels: labels.collect(), value: number(&element["value"][1])? })
}

fn number(value: &Value) -> Result<f64> {
    let text = value.as_str().context("no value")?;
    text.replace("Inf", "inf").parse().with_context(|| format!("the value {text}"))
}

/// For a query string.
fn encoded(text: &str) -> String {
    let mut result = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            result.push(byte.into());
        } else {
            let _ = write!(result, "%{byte:02X}");
        }
    }
    result
}

#[cfg(test)]
mod tests;
