//! Whether an end is ready: a set of named conditions, all of which must be met.
//!
//! Each part of the end owns its [`Condition`] and alone says whether it holds; `/readyz` answers 200 or 503 and lists
//! what is missing, so that "not ready" always says why. A condition that was met may be lost again. Not here:
//! liveness, which is that the process answers at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::http::{Request, Response};

#[cfg(test)]
mod tests;

/// The conditions of one end. Clones are the same set.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Name to what it waits for; `None` where the condition is met.
    conditions: Arc<watch::Sender<BTreeMap<&'static str, Option<String>>>>,
}

/// One condition, held by whoever can say whether it is met.
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    ready: Ready,
}

/// A condition that is not met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Which one.
    pub name: String,
    /// What it waits for.
    pub message: String,
}

/// The answer of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Nothing is missing.
    pub ready: bool,
    /// What is missing, by name.
    pub missing: Vec<Missing>,
}

impl Default for Ready {
    fn default() -> Self {
        Self::new()
    }
}

impl Ready {
    /// No conditions: ready.
    pub fn new() -> Self {
        Self { conditions: Arc::new(watch::Sender::new(BTreeMap::new())) }
    }

    /// Adds a condition that is not met yet. `waits_for` is what a person should read meanwhile.
    pub fn condition(&self, name: &'static str, waits_for: impl Into<String>) -> Condition {
        let condition = Condition { name, ready: self.clone() };
        condition.lost(waits_for);
        condition
    }

    /// Where things stand.
    pub fn readiness(&self) -> Readiness {
        let conditions = self.conditions.borrow();
        let missing: Vec<_> = conditions
            .iter()
            .filter_map(|(name, missing)| {
                Some(Missing { name: (*name).into(), message: missing.as_ref()?.clone() })
            })
            .collect();
        Readiness { ready: missing.is_empty(), missing }
    }

    /// Whether all conditions are met.
    pub fn is_ready(&self) -> bool {
        self.conditions.borrow().values().all(Option::is_none)
    }

    /// Returns once all conditions are met. Cancel-safe.
    pub async fn wait(&self) {
        let mut changes = self.conditions.subscribe();
        // An error means that the sender is gone, and `self` is one.
        let _ = changes.wait_for(|conditions| conditions.values().all(Option::is_none)).await;
    }

    /// The handler for `GET /readyz`.
    pub fn endpoint(&self) -> impl Fn(Request) -> std::future::Ready<Response> + Send + Sync + use<> {
        let ready = self.clone();
        move |_request| {
            let readiness = ready.readiness();
            let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            std::future::ready(Response::json(&readiness).with_status(status))
        }
    }
}

impl Condition {
    /// It holds.
    pub fn met(&self) {
        self.set(None);
    }

    /// It does not hold (any more): what it waits for.
    pub fn lost(&self, waits_for: impl Into<String>) {
        self.set(Some(waits_for.into()));
    }

    fn set(&self, missing: Option<String>) {
        self.ready.conditions.send_if_modified(|conditions| {
            let changed = conditions.get(self.name) != Some(&missing);
            conditions.insert(self.name, missing);
            changed
        });
    }
}
