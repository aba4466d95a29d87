//! What is in force on this node: the agent's flags, overlaid by what the operator set for the whole mesh.
//!
//! ```text
//! flags ─────────────────────────────────┐
//! MeshConfig ─▶ controller ─▶ World::mesh ─┴▶ InForce, published whole ─▶ whoever asks, when it asks
//! ```
//!
//! A field that the operator left out, or a MeshConfig that is gone, is the flag again. Applied while the agent runs, by
//! `control`; nothing needs a restart. Exclusions are not here: they are the kernel's (`kernel::exclusions`). The
//! [`LeftMark`] is what an agent that is started again knows of the mesh's leaving before it knows the world.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_model::{AccessLogMode, AccessLogSettings, MeshSettings, MetricsProfile, MetricsSettings, Share};
use mesh_telemetry::logs::Format;

use crate::config::{PreCaptureSockets, RunFlags, UnknownPods};

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use tests::flags as example;

/// What is in force now; loaded anew by whoever asks.
pub type Shared = Arc<ArcSwap<InForce>>;

/// What is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// Pods that nobody has classified may connect.
    pub allow_unknown_pods: bool,
    /// Namespaces whose pods are outside the mesh before the controller has spoken.
    pub bootstrap_namespaces: Vec<Arc<str>>,
    /// Sockets from before a pod's capture are left alone.
    pub keep_pre_capture_sockets: bool,
    /// Keys outlive the node's memory.
    pub keys_on_disk: bool,
    /// Where kubelet listens.
    pub kubelet_port: u16,
    /// How log lines are written.
    pub log_format: Format,
    /// What is counted of connections.
    pub metrics: Metrics,
    /// Of which connections there is a line.
    pub access_log: AccessLog,
    /// The mesh is being uninstalled.
    pub leaving: bool,
}

/// What is counted of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Which labels there are.
    pub profile: MetricsProfile,
    /// How many series there are at most.
    pub max_series: u32,
}

/// Of which connections there is a line, and how it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Of which, first of all.
    pub mode: AccessLogMode,
    /// How.
    pub format: Format,
    /// Of how many that were admitted.
    pub sample: Share,
    /// Of those with one end in these namespaces; `None`: of all.
    pub namespaces: Option<Vec<Arc<str>>>,
    /// Of those that were admitted, only such as lasted this long.
    pub min_duration: Duration,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { profile: MetricsProfile::default(), max_series: 20_000 }
    }
}

impl AccessLog {
    /// Where nobody says anything of it: written as other lines are.
    pub fn written_as(format: Format) -> Self {
        Self {
            mode: AccessLogMode::default(),
            format,
            sample: Share::ALL,
            namespaces: None,
            min_duration: Duration::ZERO,
        }
    }
}

impl InForce {
    /// As the flags say.
    pub fn of(flags: &RunFlags) -> Self {
        Self {
            allow_unknown_pods: flags.unknown_pods == UnknownPods::Allow,
            bootstrap_namespaces: flags
                .bootstrap_namespaces
                .iter()
                .map(|name| name.as_str().into())
                .collect(),
            keep_pre_capture_sockets: flags.pre_capture_sockets == PreCaptureSockets::Keep,
            keys_on_disk: false,
            kubelet_port: flags.kubelet_port,
            log_format: flags.log_format,
            metrics: Metrics::default(),
            access_log: AccessLog::written_as(flags.log_format),
            leaving: false,
        }
    }

    /// As the flags say where the operator says nothing.
    #[must_use]
    pub fn overlaid(&self, mesh: Option<&MeshSettings>) -> Self {
        let mut now = self.clone();
        let Some(mesh) = mesh else { return now };
        let MeshSettings {
            excluded_prefixes: _,
            excluded_ports: _,
            // Asked of the world, workload by workload.
            mtls: _,
            same_node_tunnel: _,
            bootstrap_namespaces,
            allow_unknown_pods,
            keep_pre_capture_sockets,
            keys_on_disk,
            kubelet_port,
            log_format,
            metrics,
            access_log,
            leaving,
        } = mesh;
        set(&mut now.bootstrap_namespaces, bootstrap_namespaces.as_ref());
        set(&mut now.allow_unknown_pods, allow_unknown_pods.as_ref());
        set(&mut now.keep_pre_capture_sockets, keep_pre_capture_sockets.as_ref());
        set(&mut now.keys_on_disk, keys_on_disk.as_ref());
        set(&mut now.kubelet_port, kubelet_port.as_ref().filter(|port| **port != 0));
        // A word of a newer controller that this agent does not know is nothing said.
        set(&mut now.log_format, log_format.as_ref().and_then(|word| word.parse().ok()).as_ref());
        now.access_log.format = now.log_format;
        now.access_log.overlay(access_log);
        let MetricsSettings { profile, max_series } = metrics;
        set(&mut now.metrics.profile, profile.as_ref());
        set(&mut now.metrics.max_series, max_series.as_ref().filter(|max| **max != 0));
        now.leaving = *leaving;
        now
    }
}

impl AccessLog {
    fn overlay(&mut self, said: &AccessLogSettings) {
        let AccessLogSettings { mode, format, sample, namespaces, min_duration_ms } = said;
        set(&mut self.mode, mode.as_ref());
        set(&mut self.format, format.as_ref().and_then(|word| word.parse().ok()).as_ref());
        set(&mut self.sample, sample.as_ref());
        set(&mut self.min_duration, min_duration_ms.map(Duration::from_millis).as_ref());
        if namespaces.is_some() {
            self.namespaces.clone_from(namespaces);
        }
    }
}

fn set<T: Clone>(value: &mut T, said: Option<&T>) {
    if let Some(said) = said {
        *value = said.clone();
    }
}

/// A file that says that this node let go of everything because the mesh is leaving: an agent that is started again
/// attaches nothing, and waits for the world.
#[derive(Clone, Debug)]
pub struct LeftMark {
    path: PathBuf,
}

impl LeftMark {
    /// In the agent's state directory, which outlives the process and not the machine.
    pub fn at(state_dir: &Path) -> Self {
        Self { path: state_dir.join("left") }
    }

    /// Whether it is there.
    pub fn is_set(&self) -> bool {
        self.path.exists()
    }

    /// Puts it there.
    pub fn set(&self) -> io::Result<()> {
        if let Some(directory) = self.path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(&self.path, "the mesh is leaving: this node's agent has let go of every pod\n")
    }

    /// Takes it away.
    pub fn clear(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
