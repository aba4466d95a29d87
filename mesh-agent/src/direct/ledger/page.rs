//! The file's form: JSON, for one start of the machine and one map.

use mesh_common::{Addr, Durations, FlowCount, FlowKey};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Place;
use crate::metrics::Labels;

/// Of this form. Another is another program's, and not read.
const VERSION: u32 = 1;
/// Numbers of a [`Durations`].
const DURATIONS: usize = 1 + Durations::NONE.counts.len();

/// All of it.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::direct) struct Page {
    version: u32,
    boot: String,
    map: u32,
    pub(super) pairs: Vec<OfPair>,
    pub(super) rows: Vec<Row>,
}

/// What a pair was given.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OfPair {
    pub(super) labels: Labels,
    pub(super) count: Count,
}

/// What a row of the kernel's amounted to, and which pairs it was last given to: their numbers in [`Page::pairs`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) key: Key,
    pub(super) count: Count,
    pub(super) under: Vec<usize>,
}

/// As numbers, in the order of its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(pub(super) FlowKey);

/// As numbers, in the order of its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count(pub(super) FlowCount);

impl Page {
    /// An empty one.
    pub(super) fn of(place: &Place) -> Self {
        let (boot, map) = (place.boot.clone(), place.map);
        Self { version: VERSION, boot, map, pairs: Vec::new(), rows: Vec::new() }
    }

    /// Whether it is about these maps.
    pub(super) fn is_of(&self, place: &Place) -> bool {
        (self.version, &self.boot, self.map) == (VERSION, &place.boot, place.map)
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(FlowKey { netns_cookie, peer, dialled, dialled_port, kind }) = self;
        (netns_cookie, peer.words, dialled.words, dialled_port, kind).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (netns_cookie, peer, dialled, dialled_port, kind) = Deserialize::deserialize(deserializer)?;
        let (peer, dialled) = (Addr { words: peer }, Addr { words: dialled });
        Ok(Self(FlowKey { netns_cookie, peer, dialled, dialled_port, kind }))
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let count = &self.0;
        let single =
            [count.opened, count.closed, count.failed, count.sent, count.received, count.retransmits];
        let durations = |durations: &Durations| [&[durations.sum][..], &durations.counts].concat();
        let numbers = [&single[..], &durations(&count.connects), &durations(&count.round_trips)].concat();
        serializer.collect_seq(numbers)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let numbers = Vec::<u64>::deserialize(deserializer)?;
        let wrong = || D::Error::invalid_length(numbers.len(), &"the numbers of a row");
        let (single, rest) = numbers.split_first_chunk::<6>().ok_or_else(wrong)?;
        let (connects, round_trips) = rest.split_first_chunk::<DURATIONS>().ok_or_else(wrong)?;
        let round_trips: &[u64; DURATIONS] = round_trips.try_into().map_err(|_| wrong())?;
        let durations = |numbers: &[u64; DURATIONS]| Durations {
            sum: numbers[0],
            counts: std::array::from_fn(|at| numbers[at + 1]),
        };
        let [opened, closed, failed, sent, received, retransmits] = *single;
        Ok(Self(FlowCount {
            opened,
            closed,
            failed,
            sent,
            received,
            retransmits,
            connects: durations(connects),
            round_trips: durations(round_trips),
        }))
    }
}
