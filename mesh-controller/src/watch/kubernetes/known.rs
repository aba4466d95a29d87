//! What is known of one kind, so that a list that is made anew tells what is gone. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::FactChange;
use crate::index::facts::{Fact, Key};

/// Namespace and name.
pub(super) type Name = (Arc<str>, Arc<str>);

/// The objects of a kind that are there.
#[derive(Debug, Default)]
pub(super) struct Known {
    objects: HashMap<Name, Entry>,
    /// Which list last named an object.
    round: u64,
}

#[derive(Debug)]
struct Entry {
    /// The fact that is in force, if there is one.
    key: Option<Key>,
    /// Its newest state does not count.
    broken: bool,
    round: u64,
}

/// What an object's newest state changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) change: Option<FactChange>,
    /// Said or taken back; `None`: as it was, and well.
    pub(super) problem: Option<Option<String>>,
}

impl Known {
    /// A list begins.
    pub(super) fn begin(&mut self) {
        self.round += 1;
    }

    /// An object's newest state: the fact that it gives, or why it gives none.
    pub(super) fn set(&mut self, name: Name, read: Result<Option<Fact>, String>) -> Outcome {
        let round = self.round;
        let entry = self.objects.entry(name).or_insert(Entry { key: None, broken: false, round });
        entry.round = round;
        match read {
            Ok(Some(fact)) => {
                let key = fact.key();
                let problem = std::mem::take(&mut entry.broken).then_some(None);
                entry.key = Some(key);
                Outcome { change: Some(FactChange::Set(fact)), problem }
            }
            // It says nothing any more: a Service that became an ExternalName.
            Ok(None) => {
                let problem = std::mem::take(&mut entry.broken).then_some(None);
                Outcome { change: entry.key.take().map(FactChange::Removed), problem }
            }
            Err(error) => {
                entry.broken = true;
                Outcome { change: None, problem: Some(Some(error)) }
            }
        }
    }

    /// An object is gone.
    pub(super) fn remove(&mut self, name: &Name) -> Outcome {
        match self.objects.remove(name) {
            Some(entry) => entry.gone(),
            None => Outcome::default(),
        }
    }

    /// A list is whole: what it did not name is gone.
    pub(super) fn end(&mut self) -> Vec<(Name, Outcome)> {
        let round = self.round;
        let gone = self.objects.extract_if(|_, entry| entry.round != round);
        gone.map(|(name, entry)| (name, entry.gone())).collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }
}

impl Entry {
    fn gone(self) -> Outcome {
        Outcome { change: self.key.map(FactChange::Removed), problem: self.broken.then_some(None) }
    }
}
