//! One kind: lists, watches, starts over, and says what is in the way.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::Api;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::mpsc;

use super::gather::{ObjectName, Step};
use super::kinds::Kind;
use super::known::{Known, Name, Outcome};
use super::seen::Seen;
use crate::cluster;
use crate::index::facts::Reading;
use crate::metrics::Metrics;
use crate::reconcile::Board;

/// Objects in one page of a list: what a list costs at its peak.
const PAGE: u32 = 500;
/// After an error this long, then twice as long, and so on up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);
/// After so many errors in a row, which the API server itself gave, everything is listed anew: its history may be another
/// than the one that the watch was in.
const GIVE_UP: u32 = 3;

/// Is the history that was asked for gone (410)?
fn is_expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchError(status) if status.code == 410)
}

/// Follows one kind.
pub(super) struct Follower {
    kind: Kind,
    api: Api<Seen>,
    reading: Reading,
    board: Arc<Board>,
    steps: mpsc::Sender<Step>,
    metrics: Metrics,
    known: Known,
    /// What is in the way, as it was said.
    trouble: Option<String>,
}

impl Follower {
    pub(super) fn new(
        kind: Kind,
        api: Api<Seen>,
        reading: Reading,
        board: Arc<Board>,
        steps: mpsc::Sender<Step>,
        metrics: Metrics,
    ) -> Self {
        metrics.watches(kind.name, &kind.in_rbac());
        Self { kind, api, reading, board, steps, metrics, known: Known::default(), trouble: None }
    }

    /// Until nobody listens.
    pub(super) async fn run(mut self) {
        let mut wait = SHORTEST;
        loop {
            let config = watcher::Config::default().page_size(PAGE);
            let mut events = watcher(self.api.clone(), config).boxed();
            let mut refused = 0;
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Init) => self.known.begin(),
                    Ok(event) => {
                        (wait, refused) = (SHORTEST, 0);
                        if !self.take(event).await {
                            return;
                        }
                    }
                    Err(error) => {
                        // The server answers: the list is asked for soon, however long the wait had grown.
                        if is_expired(&error) {
                            wait = SHORTEST;
                        }
                        refused += u32::from(self.complain(&error).await);
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(LONGEST);
                        if refused >= GIVE_UP {
                            break;
                        }
                    }
                }
            }
        }
    }

    async fn take(&mut self, event: Event<Seen>) -> bool {
        self.relieved().await;
        match event {
            Event::Init => true,
            Event::InitApply(seen) | Event::Apply(seen) => {
                let (name, outcome, uid) = self.learn(seen);
                self.say(name, outcome, uid).await
            }
            Event::Delete(seen) => {
                let name = name_of(&seen);
                (self.kind.forget)(&name.0, &name.1, &self.board);
                let outcome = self.known.remove(&name);
                self.say(name, outcome, None).await
            }
            Event::InitDone => {
                for (name, outcome) in self.known.end() {
                    (self.kind.forget)(&name.0, &name.1, &self.board);
                    if !self.say(name, outcome, None).await {
                        return false;
                    }
                }
                self.count();
                self.steps.send(Step::Whole(self.kind.name)).await.is_ok()
            }
        }
    }

    fn learn(&mut self, seen: Seen) -> (Name, Outcome, Option<String>) {
        let name = name_of(&seen);
        let uid = seen.meta.uid.clone();
        let read = (self.kind.learn)(seen, &self.reading, &self.board);
        // One allocation for the name, where the fact has it, too.
        let name = match &read {
            Ok(Some(fact)) => {
                let key = fact.key();
                if key.name == name.1 && key.namespace == name.0 { (key.namespace, key.name) } else { name }
            }
            _ => name,
        };
        let outcome = self.known.set(name.clone(), read);
        (name, outcome, uid)
    }

    async fn say(&mut self, name: Name, outcome: Outcome, uid: Option<String>) -> bool {
        if let Some(change) = outcome.change
            && self.steps.send(Step::Change(change)).await.is_err()
        {
            return false;
        }
        if let Some(problem) = outcome.problem {
            let (namespace, name) = name;
            let api_version = self.kind.resource.api_version.clone();
            let object = ObjectName { kind: self.kind.name, api_version, namespace, name, uid };
            return self.steps.send(Step::Problem(object, problem)).await.is_ok();
        }
        self.count();
        true
    }

    fn count(&self) {
        self.metrics.objects(self.kind.name, self.known.len());
    }

    /// What is in the way, said once. Whether the API server itself said so.
    async fn complain(&mut self, error: &watcher::Error) -> bool {
        self.metrics.watch_restarted(self.kind.name);
        let (verb, cause) = match error {
            watcher::Error::InitialListFailed(error) => ("list", Some(error)),
            watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
                ("watch", Some(error))
            }
            // Expired: listed anew, and compared.
            _ if is_expired(error) => {
                tracing::info!(kind = self.kind.name, "the watch expired: listing anew");
                return false;
            }
            watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => ("watch", None),
        };
        let resource = self.kind.in_rbac();
        let said_by_server = matches!(cause, Some(kube::Error::Api(_)) | None);
        let trouble = match cause {
            Some(error) => cluster::explain(verb, &resource, error),
            None => format!("cannot watch {resource}: {}", crate::chain(error)),
        };
        self.metrics.api_error(verb, &resource);
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::warn!("{trouble}; trying again");
            self.trouble = Some(trouble.clone());
            // Nobody to tell: the process stops.
            let _ = self.steps.send(Step::Trouble(self.kind.name, Some(trouble))).await;
        }
        said_by_server
    }

    async fn relieved(&mut self) {
        if self.trouble.take().is_some() {
            tracing::info!(kind = self.kind.name, "the API server answers again");
            let _ = self.steps.send(Step::Trouble(self.kind.name, None)).await;
        }
    }
}

fn name_of(seen: &Seen) -> Name {
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
    (text(&seen.meta.namespace), text(&seen.meta.name))
}
