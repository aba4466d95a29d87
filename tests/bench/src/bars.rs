//! What a row is held to: the figures that the paths past the agents promise.
//!
//! A bar is asked of the median over the rounds. Not here: bars of cross-node rows, which are read next to the yardstick's.

use std::fmt;

use serde::Serialize;

use crate::summary::Figures;
use crate::works::{Kind, Path, Work};

/// A figure on the right side of a number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// More is better.
    AtLeast(f64),
    /// Less is better.
    AtMost(f64),
}

/// What a row is held to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bar {
    /// The median ratio.
    pub ratio: Limit,
    /// The agents' median CPU, in the kind's cost unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_per_unit: Option<Limit>,
}

impl Limit {
    /// Whether a figure is on the right side.
    pub fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(least) => figure >= least,
            Self::AtMost(most) => figure <= most,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, ">= {least:.2}"),
            Self::AtMost(most) => write!(f, "<= {most:.2}"),
        }
    }
}

impl Bar {
    /// The bar of a row, if it has one.
    pub fn of(path: Path, work: Work) -> Option<Self> {
        if path == Path::CrossNode {
            return None;
        }
        let (ratio, cpu_per_unit) = match work.kind {
            _ if work.compares_times() => (Limit::AtMost(1.10), None),
            Kind::Throughput => (Limit::AtLeast(0.95), Some(Limit::AtMost(0.01))),
            Kind::Request => (Limit::AtLeast(0.95), None),
            Kind::Connect => (Limit::AtLeast(0.85), None),
            Kind::Http if work.width > 1 => (Limit::AtLeast(0.95), None),
            // One request at a time by rate: that is rr-1 with more around it.
            Kind::Http => return None,
        };
        Some(Self { ratio, cpu_per_unit })
    }

    /// What of it these figures miss, in words; nothing if they hold it.
    pub fn missed(self, work: Work, figures: &Figures) -> Vec<String> {
        let unit = work.kind.cost_unit();
        let asked = [
            Some(("ratio", self.ratio, figures.ratio.median, "")),
            self.cpu_per_unit.map(|limit| ("agents' CPU", limit, figures.cpu_per_unit.median, unit)),
        ];
        let missed = asked.into_iter().flatten().filter(|(_, limit, figure, _)| !limit.holds(*figure));
        missed
            .map(|(name, limit, figure, unit)| {
                let told = format!("{name} {figure:.3} {unit}");
                format!("{}, not {limit}", told.trim_end())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
