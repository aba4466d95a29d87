//! What the agent is told, and how it answers.

use mesh_model::{Change, Uid};
use tokio::sync::oneshot;

/// Something the agent is to know.
#[derive(Debug)]
pub enum Event {
    /// The controller accepted the stream.
    Connected,
    /// No stream: it ended, or could not be had. Said once per error text; attempts go on.
    Disconnected {
        /// Why, with its causes.
        error: String,
    },
    /// Changes to apply and to answer.
    Update(Update),
    /// Every connected agent knows that these workloads, reported [`super::Capture::Leaving`], are not reached by
    /// tunnel any more.
    Released(Vec<Uid>),
}

/// A batch of changes. They belong together: apply all or none, then answer.
#[derive(Debug)]
pub struct Update {
    /// What to apply, in order.
    pub changes: Vec<Change>,
    /// With this update the agent's world is whole: it holds all that the controller had.
    pub complete: bool,
    /// How to answer; its own field, so that the changes can be moved out first.
    pub receipt: Receipt,
}

/// The answer that is owed for an update. Dropped unanswered, it counts as a nack.
#[derive(Debug)]
pub struct Receipt {
    verdict: Option<oneshot::Sender<Result<(), String>>>,
}

impl Update {
    pub(super) fn new(changes: Vec<Change>, complete: bool) -> (Self, oneshot::Receiver<Result<(), String>>) {
        let (verdict, answer) = oneshot::channel();
        (Self { changes, complete, receipt: Receipt { verdict: Some(verdict) } }, answer)
    }

    /// A whole world that came from elsewhere than the stream, such as the node's disk: nobody waits for an answer.
    pub fn kept(changes: Vec<Change>) -> Self {
        Self::new(changes, true).0
    }

    /// It is applied. The controller tells others that this agent's peers know.
    pub fn ack(self) {
        self.receipt.ack();
    }

    /// It could not be applied. The same, or what is newer by then, is sent again after a while.
    pub fn nack(self, error: impl Into<String>) {
        self.receipt.nack(error);
    }
}

impl Receipt {
    /// The update is applied.
    pub fn ack(mut self) {
        self.answer(Ok(()));
    }

    /// The update could not be applied.
    pub fn nack(mut self, error: impl Into<String>) {
        self.answer(Err(error.into()));
    }

    fn answer(&mut self, verdict: Result<(), String>) {
        if let Some(sender) = self.verdict.take() {
            // A client that is gone wants no answer.
            let _ = sender.send(verdict);
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.answer(Err("the update was dropped unanswered".into()));
    }
}
