//! Whose connections are counted together.
//!
//! ```text
//! About ─▶ PairKey (all that is known, borrowed) ─ profile ─▶ PairKey (as much as the operator wants) ─▶ found, or kept as Labels
//! ```
//!
//! A key is made of the mesh's own nouns: no address, no port, no path. What a profile leaves out is absent from the labels.
//! Invariant: keys are equal where their labels are; a scrape with one series twice is refused as a whole.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use mesh_model::{Identity, MetricsProfile, Workload};
use mesh_telemetry::api::{Direction, Security};
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use serde::{Deserialize, Serialize};

use crate::connections::{About, End};

/// An end that is no workload of the mesh, or has shown no identity.
const UNKNOWN: &str = "unknown";
/// Ends for which there is no room.
const OVERFLOW: &str = "overflow";

/// Who talks to whom, to look a pair up by: nothing is copied for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PairKey<'a> {
    pub(super) direction: Direction,
    pub(super) security: Security,
    pub(super) source: Who<'a>,
    pub(super) destination: Who<'a>,
    /// Its name; its namespace is the destination's.
    pub(super) service: Option<&'a Arc<str>>,
}

/// Replicas of one workload are one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who<'a> {
    pub(super) namespace: Option<&'a Arc<str>>,
    pub(super) workload: Option<&'a Arc<str>>,
    pub(super) identity: Option<&'a Identity>,
}

/// The same, kept with its counters, and on disk with what they amount to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    pub(super) direction: Direction,
    pub(super) security: Security,
    /// Absent for the pairs that the rest is counted under.
    pub(super) ends: Option<Ends>,
    pub(super) profile: MetricsProfile,
}

/// The ends of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ends {
    pub(super) source: Kept,
    pub(super) destination: Kept,
    pub(super) service: Option<Arc<str>>,
}

/// A [`Who`] that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) namespace: Option<Arc<str>>,
    pub(super) workload: Option<Arc<str>>,
    pub(super) identity: Option<Identity>,
}

impl<'a> PairKey<'a> {
    /// Of a connection, with all that is known.
    pub fn of(about: &'a About) -> Self {
        Self {
            direction: about.direction,
            security: about.security,
            source: Who::of(&about.source),
            destination: Who::of(&about.destination),
            service: about.service.as_ref().map(|service| &service.name),
        }
    }

    /// As much of it as a profile shows.
    #[must_use]
    pub(super) fn reduced(self, profile: MetricsProfile) -> Self {
        let reduced = |who: Who<'a>| Who {
            namespace: who.namespace,
            workload: who.workload.filter(|_| profile != MetricsProfile::Service),
            identity: who.identity.filter(|_| profile == MetricsProfile::Full),
        };
        Self { source: reduced(self.source), destination: reduced(self.destination), ..self }
    }

    /// To be kept, once it is [`reduced`](Self::reduced) to that profile.
    pub(super) fn labels(self, profile: MetricsProfile) -> Labels {
        let ends = Ends {
            source: self.source.kept(),
            destination: self.destination.kept(),
            service: self.service.cloned(),
        };
        Labels { ends: Some(ends), ..Labels::overflow(self.direction, self.security, profile) }
    }
}

impl<'a> Who<'a> {
    fn of(end: &'a End) -> Self {
        let of = |field: fn(&Workload) -> &Arc<str>| end.workload.as_deref().map(field);
        Self {
            namespace: of(|workload| &workload.namespace),
            workload: of(|workload| &workload.owner),
            identity: end.identity.as_ref(),
        }
    }

    fn kept(self) -> Kept {
        Kept {
            namespace: self.namespace.cloned(),
            workload: self.workload.cloned(),
            identity: self.identity.cloned(),
        }
    }

    fn shown(&self) -> (&str, &str, Option<&Identity>) {
        let shown = |name: Option<&'a Arc<str>>| name.map_or(UNKNOWN, |name| name);
        (shown(self.namespace), shown(self.workload), self.identity)
    }
}

/// By what the labels say: a namespace may well be called `unknown`.
impl PartialEq for Who<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.shown() == other.shown()
    }
}

impl Eq for Who<'_> {}

impl Hash for Who<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.shown().hash(state);
    }
}

impl Kept {
    fn who(&self) -> Who<'_> {
        Who {
            namespace: self.namespace.as_ref(),
            workload: self.workload.as_ref(),
            identity: self.identity.as_ref(),
        }
    }
}

impl Labels {
    /// What is counted for which there is no room.
    pub(super) fn overflow(direction: Direction, security: Security, profile: MetricsProfile) -> Self {
        Self { direction, security, ends: None, profile }
    }

    /// To look them up by; none for those of the rest.
    pub(super) fn key(&self) -> Option<PairKey<'_>> {
        let ends = self.ends.as_ref()?;
        Some(PairKey {
            direction: self.direction,
            security: self.security,
            source: ends.source.who(),
            destination: ends.destination.who(),
            service: ends.service.as_ref(),
        })
    }

    /// Whether it is that key's, which is [`reduced`](PairKey::reduced) to that profile.
    pub(super) fn are_of(&self, key: &PairKey<'_>, profile: MetricsProfile) -> bool {
        self.profile == profile && self.key() == Some(*key)
    }

    /// The end on this node.
    pub(super) fn local(&self) -> Option<&Kept> {
        self.ends.as_ref().map(|ends| match self.direction {
            Direction::Outbound => &ends.source,
            Direction::Inbound => &ends.destination,
        })
    }

    /// The other one.
    pub(super) fn remote(&self) -> Option<&Kept> {
        self.ends.as_ref().map(|ends| match self.direction {
            Direction::Outbound => &ends.destination,
            Direction::Inbound => &ends.source,
        })
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        put(encoder, "direction", self.direction.as_str())?;
        put(encoder, "security", self.security.as_str())?;
        let with_workloads = self.profile != MetricsProfile::Service;
        let with_identities = self.profile == MetricsProfile::Full;
        let ends = self.ends.as_ref();
        let sides = [
            (["source_namespace", "source_workload", "source_identity"], ends.map(|ends| &ends.source)),
            (
                ["destination_namespace", "destination_workload", "destination_identity"],
                ends.map(|ends| &ends.destination),
            ),
        ];
        for ([namespace, workload, identity], who) in sides {
            put(encoder, namespace, name(who, |who| who.namespace.as_deref()))?;
            if with_workloads {
                put(encoder, workload, name(who, |who| who.workload.as_deref()))?;
            }
            match who.map(|who| &who.identity) {
                _ if !with_identities => {}
                None => put(encoder, identity, OVERFLOW)?,
                Some(None) => put(encoder, identity, UNKNOWN)?,
                Some(Some(who)) => put(encoder, identity, &who.to_string())?,
            }
        }
        let service = match ends {
            None => OVERFLOW,
            Some(ends) => ends.service.as_deref().unwrap_or_default(),
        };
        put(encoder, "destination_service", service)
    }
}

fn name<'a>(who: Option<&'a Kept>, of: impl FnOnce(&'a Kept) -> Option<&'a str>) -> &'a str {
    who.map_or(OVERFLOW, |who| of(who).unwrap_or(UNKNOWN))
}

fn put(encoder: &mut LabelSetEncoder<'_>, name: &str, value: &str) -> Result<(), fmt::Error> {
    (name, value).encode(encoder.encode_label())
}

/// A pair's labels and more.
#[derive(Debug)]
pub(super) struct With<'a, const N: usize> {
    pub(super) labels: &'a Labels,
    pub(super) more: [(&'static str, &'static str); N],
}

impl<const N: usize> EncodeLabelSet for With<'_, N> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, value) in self.more {
            put(encoder, name, value)?;
        }
        self.labels.encode(encoder)
    }
}
