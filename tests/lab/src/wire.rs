//! Watching the wire between nodes: tcpdump on a node's underlay interface.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::cgroup::Cgroup;
use crate::node::{Node, WIRE};
use crate::pcap::Pcap;
use crate::place::Place;
use crate::process::{Command, Process, Site};
use crate::{eventually, random};

/// Longest packet there is, also with segmentation offload.
pub(crate) const WHOLE_PACKETS: u32 = 65_600;
/// Kernel buffer in KiB.
const BUFFER: &str = "131072";
/// The discard port: nobody answers.
const MARKER_PORT: u16 = 9;

/// A capture that runs.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    path: PathBuf,
    node: std::sync::Arc<Node>,
    /// As a filter may keep the marker out, it is always let in.
    peer: SocketAddr,
}

impl Capture {
    pub(crate) fn start(
        place: &Place,
        node: &std::sync::Arc<Node>,
        path: PathBuf,
        filter: &str,
        bytes: u32,
    ) -> Result<Self> {
        let watchers = Cgroup::create(place.cgroup()?.join("watchers"))?;
        let marker = format!("udp dst port {MARKER_PORT}");
        let filter = if filter.is_empty() { String::new() } else { format!("({filter}) or {marker}") };
        let bytes = bytes.max(128).to_string();
        let file = path.display().to_string();
        // Immediate mode and one write per packet: what was on the wire is in the file at once.
        let mut arguments = vec!["tcpdump", "-i", WIRE, "-n", "-U", "--immediate-mode", "-Z", "root"];
        arguments.extend(["-B", BUFFER, "-s", &bytes, "-w", &file]);
        if !filter.is_empty() {
            arguments.push(&filter);
        }
        let site = Site { name: format!("wire-of-{}", node.name()), ..node.site(Some(watchers))? };
        let process = Command::new(site, arguments).spawn()?;
        let listening = eventually(Duration::from_secs(10), || {
            let said = process.stderr_so_far();
            if said.contains("listening on") { Ok(()) } else { Err(said) }
        });
        listening.context("wait for tcpdump")?;
        let peer = SocketAddr::new(node.neighbour().into(), MARKER_PORT);
        Ok(Self { process, path, node: node.clone(), peer })
    }

    /// Ends the capture and reads it. Everything that was on the wire before this call is in it; an error if tcpdump lost
    /// packets, for then nothing can be said.
    pub fn stop(self) -> Result<Pcap> {
        // A packet of our own, so that we know when tcpdump has written all that came before.
        let marker = format!("weft-lab-marker-{}", random::hex(8)?);
        eventually(Duration::from_secs(15), || {
            let send = || -> std::io::Result<()> {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.send_to(marker.as_bytes(), self.peer).map(|_| ())
            };
            match self.node.netns_thread(send) {
                Ok(Ok(())) => {}
                other => return Err(format!("send the marker: {other:?}")),
            }
            let bytes = std::fs::read(&self.path).map_err(|error| error.to_string())?;
            match memchr::memmem::find(&bytes, marker.as_bytes()) {
                Some(_) => Ok(()),
                None => Err(format!("{} bytes captured, the marker is not among them", bytes.len())),
            }
        })
        .context("flush the capture")?;
        self.process.signal(Signal::SIGINT)?;
        let output = self.process.wait(Duration::from_secs(10))?;
        let said = output.errors();
        let dropped = dropped(&said).with_context(|| format!("tcpdump said no numbers: {said}"))?;
        if dropped > 0 {
            bail!("tcpdump lost {dropped} packets: capture fewer bytes of each (capture_wire_with)");
        }
        Pcap::read(&self.path)
    }
}

/// The number in "N packets dropped by kernel".
fn dropped(said: &str) -> Option<u64> {
    let line = said.lines().find(|line| line.contains("dropped by kernel"))?;
    line.split(' ').next()?.parse().ok()
}
