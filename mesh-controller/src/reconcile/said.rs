//! What is in the way of a write: said once, and that it is over.

use crate::cluster;
use crate::metrics::Metrics;

/// The last thing that was in the way of one kind of write.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    last: Option<String>,
}

impl Trouble {
    /// It failed.
    pub(super) fn said(&mut self, verb: &str, resource: &str, error: &kube::Error, metrics: &Metrics) {
        metrics.api_error(verb, resource);
        let text = cluster::explain(verb, resource, error);
        if self.last.as_ref() != Some(&text) {
            tracing::warn!("{text}; trying again");
            self.last = Some(text);
        }
    }

    /// It went well.
    pub(super) fn over(&mut self) {
        self.last = None;
    }
}

/// Somebody else was faster: the newest state comes by the watch.
pub(super) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// The object is not there (any more).
pub(super) fn is_absent(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 && !cluster::is_unknown_kind(status))
}
