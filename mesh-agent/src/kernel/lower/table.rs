//! One map, and what was written to it.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use crate::kernel::MapFailure;

/// A map in the kernel.
pub trait Rows<K, V>: Send {
    /// Writes a row, whole.
    fn insert(&self, key: &K, value: V) -> Result<(), MapFailure>;
    /// Removes a row; one that is not there is none.
    fn remove(&self, key: &K) -> Result<(), MapFailure>;
}

/// A map and what was written to it.
pub(super) struct Table<K, V> {
    rows: Box<dyn Rows<K, V>>,
    written: HashMap<K, Written<V>>,
    /// Counts the rounds in which everything that is wanted is put.
    round: u64,
    /// Keys that a predecessor left, with values that nobody knows.
    strange: HashSet<K>,
    /// Rows that are wanted and not there.
    lacking: HashSet<K>,
    /// Why.
    failure: Option<MapFailure>,
}

/// A row as it was written.
struct Written<V> {
    value: V,
    /// When it was last wanted.
    round: u64,
}

impl<K: Copy + Eq + Hash, V: Copy + PartialEq> Table<K, V> {
    /// `strange`: keys that a predecessor left.
    pub(super) fn new(rows: Box<dyn Rows<K, V>>, strange: Vec<K>) -> Self {
        let strange = strange.into_iter().collect();
        Self { rows, written: HashMap::new(), round: 0, strange, lacking: HashSet::new(), failure: None }
    }

    /// Whether the row is there.
    pub(super) fn put(&mut self, key: K, value: V) -> bool {
        let round = self.round;
        if let Some(written) = self.written.get_mut(&key) {
            written.round = round;
            if written.value == value {
                // It may have been wanted otherwise, in vain, in between.
                self.lacking.remove(&key);
                return true;
            }
        }
        match self.rows.insert(&key, value) {
            Ok(()) => {
                self.written.insert(key, Written { value, round });
                self.strange.remove(&key);
                self.lacking.remove(&key);
                true
            }
            Err(error) => {
                self.lacking.insert(key);
                self.failure = Some(error);
                false
            }
        }
    }

    pub(super) fn remove(&mut self, key: &K) {
        self.lacking.remove(key);
        if self.written.contains_key(key) || self.strange.contains(key) {
            match self.rows.remove(key) {
                Ok(()) => {
                    self.written.remove(key);
                    self.strange.remove(key);
                }
                Err(error) => self.failure = Some(error),
            }
        }
    }

    /// Removes the rows that are not to be kept.
    pub(super) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        let old: Vec<K> =
            self.written.keys().chain(&self.strange).filter(|key| !keep(key)).copied().collect();
        old.iter().for_each(|key| self.remove(key));
        self.lacking.retain(keep);
    }

    /// From here to [`Self::end`] everything that is wanted is put.
    pub(super) fn begin(&mut self) {
        self.round += 1;
        self.lacking.clear();
    }

    /// Removes the rows that were not put, but for those of a predecessor's that are to be kept.
    pub(super) fn end(&mut self, keep: impl Fn(&K) -> bool) {
        let old = self.written.iter().filter(|(_, written)| written.round != self.round).map(|(key, _)| key);
        let strange = self.strange.iter().filter(|key| !keep(key) && !self.lacking.contains(key));
        let old: Vec<K> = old.chain(strange).copied().collect();
        old.iter().for_each(|key| self.remove(key));
    }

    /// As [`Self::retain`], and leaves a predecessor's where they are.
    pub(super) fn retain_own(&mut self, keep: impl Fn(&K) -> bool) {
        let old: Vec<K> = self.written.keys().filter(|key| !keep(key)).copied().collect();
        old.iter().for_each(|key| self.remove(key));
        self.lacking.retain(keep);
    }

    /// Rows that were written and are there.
    pub(super) fn len(&self) -> usize {
        self.written.len()
    }

    /// Whether a predecessor left it, and nobody has written it since.
    pub(super) fn is_strange(&self, key: &K) -> bool {
        self.strange.contains(key)
    }

    /// Whether there is anything of a predecessor's.
    pub(super) fn has_strange(&self) -> bool {
        !self.strange.is_empty()
    }

    /// Whether all that is wanted is there.
    pub(super) fn is_whole(&self) -> bool {
        self.lacking.is_empty()
    }

    /// Rows that are not there; and why, once.
    pub(super) fn lacking(&mut self) -> (usize, Option<MapFailure>) {
        (self.lacking.len(), self.failure.take())
    }
}
