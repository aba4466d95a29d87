//! Steps of all kinds, gathered into batches for the hub; nothing before every kind is whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_telemetry::api::FileRow;
use tokio::sync::{mpsc, watch};

use super::super::{Batch, FactChange};
use crate::metrics::Metrics;
use crate::publish::Hub;
use crate::reconcile::{Board, Standing};

/// A burst of changes is gathered for so long: one delta for the agents instead of one for each.
const GATHER: Duration = Duration::from_millis(10);
/// More than so many steps are not gathered into one batch.
const MOST: usize = 10_000;

/// One thing that a watch found out.
#[derive(Debug)]
pub(super) enum Step {
    /// A fact.
    Change(FactChange),
    /// An object's newest state does not count, or counts again.
    Problem(ObjectName, Option<String>),
    /// A kind cannot be watched, or can again.
    Trouble(&'static str, Option<String>),
    /// The list of a kind is whole.
    Whole(&'static str),
}

/// An object to whom something may be said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// As objects write it.
    pub kind: &'static str,
    /// Group and version.
    pub api_version: String,
    /// Empty where its kind has none.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Where it is known.
    pub uid: Option<String>,
}

/// Kind, namespace, name.
type Place = (&'static str, Arc<str>, Arc<str>);

pub(super) struct Gather {
    /// Kinds whose first list is not whole; `None` once the first world is published.
    missing: watch::Sender<Option<Vec<&'static str>>>,
    hub: Arc<Hub>,
    board: Arc<Board>,
    metrics: Metrics,
    changes: Vec<FactChange>,
    problems: BTreeMap<Place, (ObjectName, String)>,
    troubles: BTreeMap<&'static str, String>,
    loaded: bool,
}

impl Gather {
    pub(super) fn new(
        kinds: Vec<&'static str>,
        hub: Arc<Hub>,
        board: Arc<Board>,
        metrics: Metrics,
    ) -> (Self, watch::Receiver<Option<Vec<&'static str>>>) {
        let (missing, receiver) = watch::channel(Some(kinds));
        let (changes, problems, troubles) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        (Self { missing, hub, board, metrics, changes, problems, troubles, loaded: false }, receiver)
    }

    pub(super) async fn run(mut self, mut steps: mpsc::Receiver<Step>) {
        while let Some(step) = steps.recv().await {
            self.take(step);
            // What is gathered: before the first world everything, then what comes together.
            if self.loaded {
                let end = tokio::time::Instant::now() + GATHER;
                while self.changes.len() < MOST
                    && let Ok(Some(step)) = tokio::time::timeout_at(end, steps.recv()).await
                {
                    self.take(step);
                }
            }
            self.publish();
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Change(change) => self.changes.push(change),
            Step::Problem(object, problem) => {
                let key = (object.kind, object.namespace.clone(), object.name.clone());
                match problem {
                    Some(text) => {
                        if self.problems.get(&key).is_none_or(|(_, old)| *old != text) {
                            let (kind, namespace, name) = (object.kind, &object.namespace, &object.name);
                            tracing::error!(
                                kind,
                                %namespace,
                                %name,
                                "{text}; its last good state, if it had one, stays in force"
                            );
                        }
                        self.problems.insert(key, (object, text));
                    }
                    None => drop(self.problems.remove(&key)),
                }
                let notice = |(object, text): &(ObjectName, String)| Standing {
                    object: object.clone(),
                    reason: "Malformed",
                    note: format!("{text}; its last good state, if it had one, stays in force"),
                };
                self.board.standing("watch", self.problems.values().map(notice).collect());
            }
            Step::Trouble(kind, trouble) => match trouble {
                Some(trouble) => drop(self.troubles.insert(kind, trouble)),
                None => drop(self.troubles.remove(kind)),
            },
            Step::Whole(kind) => {
                self.board.whole(kind);
                self.missing.send_if_modified(|missing| {
                    let Some(missing) = missing else { return false };
                    let before = missing.len();
                    missing.retain(|other| *other != kind);
                    missing.len() != before
                });
            }
        }
    }

    fn publish(&mut self) {
        if self.missing.borrow().as_ref().is_some_and(|missing| !missing.is_empty()) {
            // Nothing may be said yet but what is in the way.
            self.metrics.config_errors.set(i64::try_from(self.rows().len()).unwrap_or(i64::MAX));
            return;
        }
        let batch = Batch { changes: std::mem::take(&mut self.changes), rows: self.rows(), partial: false };
        if self.loaded {
            return self.hub.apply(batch);
        }
        self.loaded = true;
        self.hub.apply_first(batch, self.board.words());
        self.hub.loaded();
        self.missing.send_replace(None);
    }

    fn rows(&self) -> Vec<FileRow> {
        let problems = self.problems.values().map(|(object, text)| {
            let ObjectName { kind, namespace, name, .. } = object;
            let path = match namespace.is_empty() {
                true => format!("{kind} {name}"),
                false => format!("{kind} {namespace}/{name}"),
            };
            FileRow { path, error: Some(text.clone()) }
        });
        let troubles = self
            .troubles
            .iter()
            .map(|(kind, text)| FileRow { path: format!("all of kind {kind}"), error: Some(text.clone()) });
        problems.chain(troubles).collect()
    }
}
