//! A stream's place in the hub: what it has to say next, and what its answers mean.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_model::Uid;
use mesh_xds::delta::{ProtocolError, Session};
use mesh_xds::{Version, proto};
use tokio::sync::Notify;

use super::release::{note, release};
use super::{Hub, State, Stream};

/// So many streams an agent may have: a successor's beside a predecessor's, and some that are dead and not known to be.
const STREAMS: usize = 4;
/// So much of an agent's words is kept, in bytes.
const WORDS: usize = 1_024;

/// A stream's place in the hub; left when dropped.
#[derive(Debug)]
pub(in crate::publish) struct Place {
    pub(super) hub: Arc<Hub>,
    pub(super) id: u64,
    /// There is something released.
    pub(in crate::publish) wake: Arc<Notify>,
    /// The world that the delta in flight leads to.
    pub(super) sent: Version,
}

impl Place {
    /// The next thing to say on this stream.
    pub(in crate::publish) fn next(
        &mut self,
        session: &mut Session,
    ) -> Result<Option<proto::Delta>, ProtocolError> {
        let mut state = self.hub.state();
        let had = state.policies_of_stream(self.id);
        // What an ack has just confirmed is the delta sent before.
        let before = note(&mut state, self.id, session.acked(), self.sent);
        let delta = session.next(&state.published)?;
        // Nothing to say and nothing refused: the agent has the newest, however it came by it.
        if delta.is_some() || session.acked() == state.published.generation() {
            self.sent = state.published.version();
        }
        let after = note(&mut state, self.id, session.acked(), self.sent);
        if before || after {
            Hub::policies_may_differ(&mut state);
            if state.policies_of_stream(self.id) != had {
                // What it has applied is written to its NodeState.
                self.hub.captures_changed.notify_one();
            }
        }
        if (before || after) && state.is_waited_for_elsewhere() {
            self.hub.acknowledged_changed.notify_one();
        }
        Ok(delta)
    }

    /// Its agent refused an update, in its own words.
    pub(in crate::publish) fn refused(&self, error: &str) {
        let mut state = self.hub.state();
        let State { streams, agents, .. } = &mut *state;
        if let Some(stream) = streams.get(&self.id) {
            let end = (0..=WORDS.min(error.len())).rev().find(|at| error.is_char_boundary(*at)).unwrap_or(0);
            agents.entry(stream.node.clone()).or_default().refused = Some(error[..end].into());
        }
    }

    /// The stream has to end: its agent has newer ones.
    pub(in crate::publish) fn is_over(&self) -> bool {
        self.hub.state().streams.get(&self.id).is_none_or(|stream| stream.is_over)
    }

    /// Takes what this stream's agent is to be told as released.
    pub(in crate::publish) fn released(&self) -> Vec<Uid> {
        let mut state = self.hub.state();
        state.streams.get_mut(&self.id).map(|stream| std::mem::take(&mut stream.released)).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        state.streams.remove(&self.id);
        Hub::policies_may_differ(&mut state);
        // One agent fewer to wait for.
        release(&mut state);
        self.hub.acknowledged_changed.notify_one();
        self.hub.captures_changed.notify_one();
        self.hub.metrics.agents_connected.set(i64::try_from(state.streams.len()).unwrap_or(i64::MAX));
    }
}

/// Makes room for one more stream of a node: what is kept for an agent is bounded, however often it comes.
pub(super) fn end_oldest(streams: &mut BTreeMap<u64, Stream>, node: &str) {
    let mut own: Vec<_> =
        streams.values_mut().filter(|stream| stream.node == node && !stream.is_over).collect();
    if own.len() >= STREAMS
        && let Some(oldest) = own.first_mut()
    {
        oldest.is_over = true;
        oldest.wake.notify_one();
    }
}
