//! Which file says what, and who wins where two say the same object. Pure.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use mesh_telemetry::api::FileRow;

use crate::index::facts::{Fact, Key};

/// One step from one set of facts to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FactChange {
    /// New or different.
    Set(Fact),
    /// Gone.
    Removed(Key),
}

impl FactChange {
    /// Of which object.
    pub fn key(&self) -> Key {
        match self {
            Self::Set(fact) => fact.key(),
            Self::Removed(key) => key.clone(),
        }
    }
}

/// Where an object is: the file and its place in it. Ordered as they count.
type Place = (Arc<Path>, usize);

/// All files as of their last good state.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    files: BTreeMap<Arc<Path>, FileState>,
    /// Every object and the places that have it; the first counts.
    objects: HashMap<Key, BTreeMap<Place, Arc<Fact>>>,
    /// Objects with more than one place.
    contested: std::collections::BTreeSet<Key>,
}

#[derive(Debug, Default)]
struct FileState {
    keys: Vec<Key>,
    /// Why the newest state does not count.
    error: Option<String>,
    /// It has been good once.
    good: bool,
}

impl Catalog {
    /// A file's newest state is good.
    pub(super) fn set(&mut self, path: &Arc<Path>, facts: Vec<Fact>, changes: &mut Vec<FactChange>) {
        let old = self.files.remove(path).unwrap_or_default();
        let mut touched: BTreeMap<Key, Option<Arc<Fact>>> = BTreeMap::new();
        for key in old.keys.iter().cloned().chain(facts.iter().map(Fact::key)) {
            let winner = self.winner(&key).cloned();
            touched.entry(key).or_insert(winner);
        }
        self.take_out(path, &old.keys);
        let mut keys = Vec::with_capacity(facts.len());
        for (at, fact) in facts.into_iter().enumerate() {
            let key = fact.key();
            self.objects.entry(key.clone()).or_default().insert((path.clone(), at), Arc::new(fact));
            keys.push(key);
        }
        self.files.insert(path.clone(), FileState { keys, error: None, good: true });
        self.settle(touched, changes);
    }

    /// A file's newest state is not good: the last good one stays.
    pub(super) fn fail(&mut self, path: &Arc<Path>, error: String) {
        self.files.entry(path.clone()).or_default().error = Some(error);
    }

    /// A file is gone.
    pub(super) fn remove(&mut self, path: &Arc<Path>, changes: &mut Vec<FactChange>) {
        let Some(old) = self.files.remove(path) else { return };
        let touched = old.keys.iter().map(|key| (key.clone(), self.winner(key).cloned())).collect();
        self.take_out(path, &old.keys);
        self.settle(touched, changes);
    }

    fn winner(&self, key: &Key) -> Option<&Arc<Fact>> {
        self.objects.get(key)?.values().next()
    }

    fn take_out(&mut self, path: &Arc<Path>, keys: &[Key]) {
        for (at, key) in keys.iter().enumerate() {
            if let Some(places) = self.objects.get_mut(key) {
                places.remove(&(path.clone(), at));
                if places.is_empty() {
                    self.objects.remove(key);
                }
            }
        }
    }

    fn settle(&mut self, touched: BTreeMap<Key, Option<Arc<Fact>>>, changes: &mut Vec<FactChange>) {
        for (key, before) in touched {
            if self.objects.get(&key).is_some_and(|places| places.len() > 1) {
                self.contested.insert(key.clone());
            } else {
                self.contested.remove(&key);
            }
            match (before, self.winner(&key)) {
                (before, Some(after)) if before.as_ref() != Some(after) => {
                    changes.push(FactChange::Set(after.as_ref().clone()));
                }
                (Some(_), None) => changes.push(FactChange::Removed(key)),
                _ => {}
            }
        }
    }

    /// The paths of all files.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Arc<Path>> {
        self.files.keys()
    }

    /// Why a file's newest state does not count.
    #[cfg(test)]
    pub(super) fn error(&self, path: &Path) -> Option<&str> {
        self.files.get(path)?.error.as_deref()
    }

    /// Some file has never been good.
    pub(super) fn is_partial(&self) -> bool {
        self.files.values().any(|file| !file.good)
    }

    /// Every file, and what is wrong with it.
    pub(super) fn rows(&self) -> Vec<FileRow> {
        let mut duplicates: HashMap<&Arc<Path>, Vec<String>> = HashMap::new();
        for key in &self.contested {
            let Some(places) = self.objects.get(key) else { continue };
            let Some(((winner, _), _)) = places.first_key_value() else { continue };
            for (path, _) in places.keys().skip(1) {
                let text = match path == winner {
                    true => format!("{key} is in this file twice: the first counts"),
                    false => format!("{key} is in {} too, which counts", winner.display()),
                };
                duplicates.entry(path).or_default().push(text);
            }
        }
        self.files
            .iter()
            .map(|(path, file)| {
                let duplicates = duplicates.remove(path).unwrap_or_default();
                let all: Vec<_> = file.error.clone().into_iter().chain(duplicates).collect();
                let error = (!all.is_empty()).then(|| all.join("; "));
                FileRow { path: path.display().to_string(), error }
            })
            .collect()
    }
}
