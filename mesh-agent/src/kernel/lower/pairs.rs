//! What holds between every two classes, and at which ports. Two numbers mean the same for ever, so a pair is judged once.

use std::collections::{BTreeMap, HashMap, HashSet};

use mesh_common::{PairKey, PairVerdict, PortKey, PortVerdict, Verdict, maps};

use super::numbers::{Classes, Numbers};
use super::policies::{ByPort, DestinationClass, SourceClass, Work, prefixes};
use super::table::Table;
use crate::kernel::MapFailure;

/// Pairs of classes, and sets of ports.
pub(super) struct Pairs {
    rows: Table<PairKey, PairVerdict>,
    ports: Table<(u32, PortKey), PortVerdict>,
    sets: HashMap<ByPort, u32>,
    /// Which pairs lead to which set.
    by_port: HashMap<PairKey, u32>,
    /// Pairs of which something is not there.
    open: HashSet<PairKey>,
}

/// Who has no identity.
const NOBODY: u32 = 0;

impl Pairs {
    pub(super) fn new(rows: Table<PairKey, PairVerdict>, ports: Table<(u32, PortKey), PortVerdict>) -> Self {
        Self { rows, ports, sets: HashMap::new(), by_port: HashMap::new(), open: HashSet::new() }
    }

    /// Writes what is not there yet.
    pub(super) fn write(
        &mut self,
        destinations: &mut Classes<DestinationClass>,
        sources: &mut Classes<SourceClass>,
        numbers: &mut Numbers,
        work: &mut Work,
    ) {
        let mut todo: BTreeMap<u32, HashSet<u32>> = BTreeMap::new();
        for pair in std::mem::take(&mut self.open) {
            todo.entry(pair.destination).or_default().insert(pair.source);
        }
        for destination in destinations.take_fresh() {
            todo.entry(destination).or_default().extend(sources.all().chain([NOBODY]));
        }
        let fresh = sources.take_fresh();
        if !fresh.is_empty() {
            for destination in destinations.all() {
                todo.entry(destination).or_default().extend(&fresh);
            }
        }
        for (destination, from) in todo {
            // Gone meanwhile, as some of its sources may be.
            let Some(class) = destinations.class(destination) else { continue };
            let judge = class.judge();
            for source in from {
                let class = sources.class(source);
                if class.is_none() && source != NOBODY {
                    continue;
                }
                work.pairs += 1;
                let verdicts = judge.verdicts(class.map(|class| &**class));
                self.put(PairKey { source, destination }, &verdicts, numbers);
            }
        }
    }

    fn put(&mut self, key: PairKey, verdicts: &ByPort, numbers: &mut Numbers) {
        let row = match verdicts.as_slice() {
            [(_, verdict)] => Some(PairVerdict { verdict: *verdict, ports: 0 }),
            _ => self
                .port_set(key, verdicts, numbers)
                .map(|ports| PairVerdict { verdict: PairVerdict::BY_PORT, ports }),
        };
        let is_there = match row {
            // Where it is the agent's to say, a row would say no more.
            Some(PairVerdict { verdict: Verdict::ASK, .. }) => {
                self.rows.remove(&key);
                true
            }
            Some(row) => self.rows.put(key, row),
            None => {
                self.rows.remove(&key);
                false
            }
        };
        if !is_there {
            self.open.insert(key);
        }
    }

    /// The number of a set of ports, once all of it is written.
    fn port_set(&mut self, key: PairKey, verdicts: &ByPort, numbers: &mut Numbers) -> Option<u32> {
        let number = match self.sets.get(verdicts) {
            Some(number) => *number,
            None => {
                let number = numbers.take()?;
                self.sets.insert(verdicts.clone(), number);
                number
            }
        };
        self.by_port.insert(key, number);
        let mut whole = true;
        for (range, verdict) in verdicts {
            for (bits, first) in prefixes(range) {
                let key = (32 + bits, PortKey::new(number, first.into()));
                whole &= self.ports.put(key, PortVerdict { verdict: *verdict });
            }
        }
        whole.then_some(number)
    }

    /// Removes what is of no two classes. `theirs`: also what a predecessor left.
    pub(super) fn retain(
        &mut self,
        destinations: &Classes<DestinationClass>,
        sources: &Classes<SourceClass>,
        theirs: bool,
    ) {
        let lives = |pair: &PairKey| {
            destinations.contains(pair.destination)
                && (pair.source == NOBODY || sources.contains(pair.source))
        };
        self.open.retain(lives);
        self.by_port.retain(|pair, _| lives(pair));
        let used: HashSet<u32> = self.by_port.values().copied().collect();
        self.sets.retain(|_, number| used.contains(number));
        let leads = |(_, key): &(u32, PortKey)| used.contains(&u32::from_be(key.set));
        if theirs {
            self.rows.retain(lives);
            self.ports.retain(leads);
        } else {
            self.rows.retain_own(lives);
            self.ports.retain_own(leads);
        }
    }

    /// Whether there is anything of a predecessor's.
    pub(super) fn has_strange(&self) -> bool {
        self.rows.has_strange() || self.ports.has_strange()
    }

    /// Whether all of it is there.
    pub(super) fn is_whole(&self) -> bool {
        self.open.is_empty() && self.rows.is_whole() && self.ports.is_whole()
    }

    /// Rows that are not there, by map; and why, once.
    pub(super) fn lacking(&mut self) -> [(&'static str, (usize, Option<MapFailure>)); 2] {
        [(maps::PAIRS, self.rows.lacking()), (maps::PORTS, self.ports.lacking())]
    }
}
