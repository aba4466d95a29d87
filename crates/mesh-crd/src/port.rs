//! A port or a range of ports, as an object writes it: `22` or `"9000-9010"`.

use std::ops::RangeInclusive;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A port, or two with a dash between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct PortRange(pub IntOrString);

/// Not a port and not a range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no port and no range of ports: write 22, or \"9000-9010\"")]
pub struct NotAPort(String);

impl PortRange {
    /// First and last.
    pub fn range(&self) -> Result<RangeInclusive<u16>, NotAPort> {
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
        let (text, range) = match &self.0 {
            IntOrString::Int(number) => {
                let text = number.to_string();
                let port = port(&text);
                (text, port.map(|port| port..=port))
            }
            IntOrString::String(text) => {
                let ends = text.split_once('-').unwrap_or((text, text));
                let range = port(ends.0).zip(port(ends.1)).filter(|(first, last)| first <= last);
                (text.clone(), range.map(|(first, last)| first..=last))
            }
        };
        range.ok_or(NotAPort(text))
    }
}
