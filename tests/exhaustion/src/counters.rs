//! The kernel's counters of a pod's network namespace (`/proc/net/netstat`).

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use lab::Pod;

/// What a SYN that was not taken at once shows as: sent again, or dropped for a full queue.
const LOST_SYNS: [&str; 5] =
    ["TCPSynRetrans", "ListenOverflows", "ListenDrops", "TCPReqQFullDrop", "TCPReqQFullDoCookies"];

/// All `TcpExt` counters of a namespace.
#[derive(Clone, Debug)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Reads them.
    pub fn of(pod: &Pod) -> Result<Self> {
        let text = pod.netns_thread(|| std::fs::read_to_string("/proc/thread-self/net/netstat"))??;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
        let (names, values) = (lines.next().context("no TcpExt")?, lines.next().context("no TcpExt")?);
        let values = values.split(' ').map(str::parse::<u64>);
        let pairs = names.split(' ').zip(values);
        let read = pairs.map(|(name, value)| Ok((name.to_owned(), value?)));
        Ok(Self(read.collect::<Result<_>>()?))
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Result<u64> {
        self.0.get(name).copied().with_context(|| format!("this kernel has no counter {name}"))
    }
}

/// Counters of several pods at one moment.
#[derive(Debug)]
pub struct Watch<'a>(Vec<(&'a Pod, Counters)>);

impl<'a> Watch<'a> {
    /// Remembers where they stand.
    pub fn over(pods: &[&'a Pod]) -> Result<Self> {
        Ok(Self(pods.iter().map(|pod| Ok((*pod, Counters::of(pod)?))).collect::<Result<_>>()?))
    }

    /// Fails if a SYN was lost in any of them since.
    pub fn no_syn_lost(&self) -> Result<()> {
        for (pod, before) in &self.0 {
            let now = Counters::of(pod)?;
            for name in LOST_SYNS {
                let more = now.get(name)? - before.get(name)?;
                ensure!(more == 0, "{name} of {} went up by {more}", pod.key());
            }
        }
        Ok(())
    }
}
