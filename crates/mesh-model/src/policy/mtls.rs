//! Where plaintext is taken.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// Whether a captured pod takes connections without identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mtls {
    /// It does; policies judge them as peers without identity.
    #[default]
    Permissive,
    /// It does not, but for the kubelet's probes.
    Strict,
}

/// The same for some ports of one workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortMtls {
    /// The pod's own ports.
    pub ports: RangeInclusive<u16>,
    /// What holds there.
    pub mtls: Mtls,
}

impl Mtls {
    /// As objects write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Permissive => "Permissive",
            Self::Strict => "Strict",
        }
    }
}
