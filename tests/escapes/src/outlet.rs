//! A network namespace that a pod's process made for itself, with a way out through the pod: a veth pair, forwarding, and the
//! pod's own address on what goes out.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::{Command, Pod, Process, eventually};

const SCRIPT: &str = r#"
unshare -n sleep 300 &
inner=$!
while [ "$(readlink /proc/$inner/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.02; done
ip link add out type veth peer name way netns $inner
ip addr add 192.168.77.1/30 dev out
ip link set out up
inside() { nsenter -t $inner -n "$@"; }
inside ip link set lo up
inside ip addr add 192.168.77.2/30 dev way
inside ip link set way up
inside ip route add default via 192.168.77.1
echo 1 > /proc/sys/net/ipv4/ip_forward
nft add table ip outlet
nft add chain ip outlet post '{ type nat hook postrouting priority 100; }'
nft add rule ip outlet post ip saddr 192.168.77.0/30 masquerade
echo "ready $inner"
wait
"#;

/// The namespace, as long as the handle lives.
#[derive(Debug)]
pub struct Outlet {
    _process: Process,
    inner: String,
}

impl Outlet {
    /// Makes one in a pod.
    pub fn dig(pod: &Pod) -> Result<Self> {
        let process = pod.spawn(["sh", "-ec", SCRIPT])?;
        let inner = eventually(Duration::from_secs(10), || {
            let said = process.stdout_so_far();
            let pid = said.trim().strip_prefix("ready ").map(str::to_owned);
            pid.ok_or_else(|| format!("{said}{}", process.stderr_so_far()))
        });
        let inner = inner.context("make a namespace within the pod")?;
        Ok(Self { _process: process, inner })
    }

    /// A command in it, in the pod's cgroup.
    pub fn command(&self, pod: &Pod, line: Vec<OsString>) -> Result<Command> {
        let enter = ["nsenter", "-t", &self.inner, "-n"].map(OsString::from);
        pod.command(enter.into_iter().chain(line))
    }
}
