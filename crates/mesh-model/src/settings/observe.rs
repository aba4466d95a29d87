//! What agents count of connections, and of which they write a line.
//!
//! All of it may be left out; [`crate::settings`] says what that means.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// What the labels of a connection's metrics tell apart. Each profile has the labels of the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricsProfile {
    /// Namespaces and Services.
    Service,
    /// Workloads, too: Deployments, StatefulSets and so on, not their single pods.
    #[default]
    Workload,
    /// Identities, too.
    Full,
}

/// What agents count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MetricsSettings {
    /// Which labels there are.
    pub profile: Option<MetricsProfile>,
    /// How many series an agent has at most; what is beyond is counted together.
    pub max_series: Option<u32>,
}

/// Of which connections an agent writes a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AccessLogMode {
    /// Of none.
    Off,
    /// Of those that were refused, failed to begin or were cut.
    #[default]
    Refused,
    /// Of all.
    All,
}

/// The access log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccessLogSettings {
    /// Of which connections there is a line.
    pub mode: Option<AccessLogMode>,
    /// How it is written: `text` or `json`; left out: as other log lines are.
    pub format: Option<Arc<str>>,
    /// Of how many of those that were admitted. What was refused or cut is never left out.
    pub sample: Option<Share>,
    /// Of connections with one end in these namespaces; left out: of all.
    pub namespaces: Option<Vec<Arc<str>>>,
    /// Of those that were admitted, only such as lasted this long, in milliseconds.
    pub min_duration_ms: Option<u64>,
}

/// A part of a whole, to a millionth. As JSON a number from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "f64", try_from = "f64")]
pub struct Share(u32);

/// Not from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{0} is not between 0.0 and 1.0")]
pub struct NoShare(pub f64);

impl Share {
    /// All of it.
    pub const ALL: Self = Self(Self::WHOLE);
    const WHOLE: u32 = 1_000_000;

    /// From a number between 0 and 1. What is more than nothing stays more than nothing.
    pub fn new(part: f64) -> Result<Self, NoShare> {
        if !(0.0..=1.0).contains(&part) {
            return Err(NoShare(part));
        }
        let millionths = (part * f64::from(Self::WHOLE)).round() as u32;
        Ok(Self(if part > 0.0 { millionths.max(1) } else { 0 }))
    }

    /// From millionths, of which a whole has a million.
    pub fn of_millionths(millionths: u32) -> Option<Self> {
        (millionths <= Self::WHOLE).then_some(Self(millionths))
    }

    /// In millionths.
    pub fn millionths(self) -> u32 {
        self.0
    }

    /// Whether one that was numbered evenly at random is in it.
    pub fn holds(self, random: u64) -> bool {
        // The upper half, scaled to a million without a division.
        ((random >> 32) * u64::from(Self::WHOLE)) >> 32 < u64::from(self.0)
    }
}

impl From<Share> for f64 {
    fn from(share: Share) -> Self {
        f64::from(share.0) / f64::from(Share::WHOLE)
    }
}

impl TryFrom<f64> for Share {
    type Error = NoShare;

    fn try_from(part: f64) -> Result<Self, NoShare> {
        Self::new(part)
    }
}

impl MetricsProfile {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Workload => "workload",
            Self::Full => "full",
        }
    }
}

impl fmt::Display for MetricsProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for MetricsProfile {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "service" => Ok(Self::Service),
            "workload" => Ok(Self::Workload),
            "full" => Ok(Self::Full),
            _ => Err("not a profile of metrics: use service, workload or full"),
        }
    }
}

impl AccessLogMode {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "Off",
            Self::Refused => "Refused",
            Self::All => "All",
        }
    }
}
