//! What a MeshConfig says of metrics and of the access log.

use std::ops::RangeInclusive;

use mesh_model::{AccessLogSettings, MetricsSettings, Share};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LogFormat, MeshConfigError};
use crate::duration;

#[cfg(test)]
mod tests;

/// Fewer would not hold an agent's own series, more is no bound.
const MAX_SERIES: RangeInclusive<u32> = 1_000..=1_000_000;

/// What agents count of connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetricsSpec {
    /// Which labels there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<MetricsProfile>,
    /// How many series an agent has at most; what is beyond is counted together, under the label value overflow. Default: 20000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_series: Option<u32>,
}

/// Which labels the metrics of connections have: service (namespaces and Services), workload (the default: workloads, too) or full
/// (identities, too).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MetricsProfile {
    /// Namespaces and Services.
    Service,
    /// Workloads, too.
    Workload,
    /// Identities, too.
    Full,
}

/// Of which connections agents write a line to their standard output.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessLogSpec {
    /// Of which connections there is a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<AccessLogMode>,
    /// How a line is written; left out: as logFormat says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<LogFormat>,
    /// Of how many connections that were admitted, from 0.0 to 1.0 (the default). What was refused or cut is never left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<f64>,
    /// Of connections with one end in these namespaces; left out: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<String>>,
    /// Of connections that were admitted, only those that lasted this long, for example 500ms or 10s. Default: 0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_duration: Option<String>,
}

/// Of which connections there is a line: Off (none), Refused (the default: those that were refused, failed to begin or were cut) or All.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessLogMode {
    /// Of none.
    Off,
    /// Of those that were refused, failed to begin or were cut.
    Refused,
    /// Of all.
    All,
}

impl MetricsSpec {
    /// What agents are told.
    pub(super) fn settings(&self) -> Result<MetricsSettings, MeshConfigError> {
        let profile = self.profile.map(|profile| match profile {
            MetricsProfile::Service => mesh_model::MetricsProfile::Service,
            MetricsProfile::Workload => mesh_model::MetricsProfile::Workload,
            MetricsProfile::Full => mesh_model::MetricsProfile::Full,
        });
        match self.max_series {
            Some(max) if !MAX_SERIES.contains(&max) => Err(MeshConfigError::MaxSeries(max)),
            max_series => Ok(MetricsSettings { profile, max_series }),
        }
    }
}

impl AccessLogSpec {
    /// What agents are told.
    pub(super) fn settings(&self) -> Result<AccessLogSettings, MeshConfigError> {
        let mode = self.mode.map(|mode| match mode {
            AccessLogMode::Off => mesh_model::AccessLogMode::Off,
            AccessLogMode::Refused => mesh_model::AccessLogMode::Refused,
            AccessLogMode::All => mesh_model::AccessLogMode::All,
        });
        let share = |part| Share::new(part).map_err(|error| MeshConfigError::Sample(error.0.to_string()));
        let milliseconds = |text: &String| {
            let time = duration::parse(text).map_err(MeshConfigError::MinDuration)?;
            Ok(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
        };
        if self.namespaces.as_ref().is_some_and(Vec::is_empty) {
            return Err(MeshConfigError::LogNamespaces);
        }
        // One that cannot exist is a slip of the pen, after which nothing would be logged.
        let wrong = self.namespaces.iter().flatten().find(|name| !is_namespace(name));
        if let Some(name) = wrong {
            return Err(MeshConfigError::LogNamespace(name.clone()));
        }
        let namespaces = self.namespaces.as_ref();
        Ok(AccessLogSettings {
            mode,
            format: self.format.map(|format| format.as_str().into()),
            sample: self.sample.map(share).transpose()?,
            namespaces: namespaces.map(|names| names.iter().map(|name| name.as_str().into()).collect()),
            min_duration_ms: self.min_duration.as_ref().map(milliseconds).transpose()?,
        })
    }
}

/// RFC 1123 label.
fn is_namespace(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}
