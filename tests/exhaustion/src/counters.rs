//! The kernel's counters of a pod's network namespace (`/proc/net/netstat`).

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use lab::Pod;

/// What a SYN for which a queue had no room shows as.
const NO_ROOM: [&str; 4] = ["ListenOverflows", "ListenDrops", "TCPReqQFullDrop", "TCPReqQFullDoCookies"];
/// A SYN that was sent again: for want of room, or because the machine stood still for a second.
const SENT_AGAIN: [&str; 1] = ["TCPSynRetrans"];

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

    /// Fails if a queue had no room for a SYN in any of them since.
    pub fn had_room(&self) -> Result<()> {
        self.stood_still(&NO_ROOM)
    }

    /// Fails if a SYN was sent again.
    pub fn no_syn_sent_again(&self) -> Result<()> {
        self.stood_still(&SENT_AGAIN)
    }

    fn stood_still(&self, names: &[&str]) -> Result<()> {
        for (pod, before) in &self.0 {
            let now = Counters::of(pod)?;
            for name in names {
                let more = now.get(name)? - before.get(name)?;
                ensure!(more == 0, "{name} of {} went up by {more}", pod.key());
            }
        }
        Ok(())
    }
}
