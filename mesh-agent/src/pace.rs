//! What the loop does before it sleeps: one more look, or, where a lone conversation goes back and forth, many.
//!
//! ```text
//!  a small message was moved ──▶ spinning: look, give way, look … ──▶ the next message came: go on (it paid)
//!                                    └── SPIN has passed: sleep (it did not pay; it is tried less) ◀┘
//! ```
//!
//! A sleeping core takes tens of microseconds to wake, on both nodes and both ways: for a lone request that is most of its
//! time, and the waking is paid by the agent that sends. So with one thread and one or two live conversations the loop
//! stays awake for a moment behind each small message. In between it gives way ([`sched_yield`](nix::sched)) to whoever
//! else wants the core, the application above all.
//!
//! Invariants: bulk and many conversations never spin (they keep the loop busy as it is); what did not pay is not repeated
//! but for a probe now and then, so an idle agent sleeps. With several threads nobody spins: the waking would be another
//! thread's. Not here: any decision about a connection.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// A message of more is bulk.
const SMALL: usize = 4 << 10;

/// Conversations of the last messages that are looked at.
const RECENT: usize = 6;

/// How well spinning paid lately, of [`SURE`], below which it is only probed.
const WORTH: u32 = 300;
const SURE: u32 = 1024;
/// One of so many messages is a probe.
const PROBE: u32 = 64;

thread_local! {
    static PACE: Pace = const { Pace::still() };
}

/// The state of this thread's loop.
struct Pace {
    /// Zero where nobody spins.
    spin: Cell<Duration>,
    /// The last small message.
    last: Cell<Option<Instant>>,
    /// Whose the last messages were, newest first.
    recent: Cell<[u32; RECENT]>,
    score: Cell<u32>,
    count: Cell<u32>,
    spinning: Cell<bool>,
    /// The spinner, while it sleeps.
    sleeper: Cell<Option<Waker>>,
    /// Numbers for conversations.
    next: Cell<u32>,
}

/// One conversation.
pub(crate) struct Beat(u32);

impl Beat {
    /// A new one.
    pub(crate) fn new() -> Self {
        Self(PACE.with(|pace| {
            let id = pace.next.get().wrapping_add(1);
            pace.next.set(id);
            id
        }))
    }

    /// So many bytes of it were moved.
    pub(crate) fn moved(&self, bytes: usize) {
        PACE.with(|pace| pace.moved(self.0, bytes));
    }
}

/// Lets others run, and looks once more at what came, before the caller goes on: what can be said together then goes out
/// in one write.
pub(crate) async fn breath() {
    give_way();
    tokio::task::yield_now().await;
}

/// Stays awake on this thread when it pays, up to `spin` behind each message. Never ends.
pub(crate) async fn keep(spin: Duration) {
    PACE.with(|pace| pace.spin.set(spin));
    loop {
        poll_fn(|cx| {
            PACE.with(|pace| {
                if pace.spinning.get() {
                    return Poll::Ready(());
                }
                pace.sleeper.set(Some(cx.waker().clone()));
                Poll::Pending
            })
        })
        .await;
        while PACE.with(Pace::is_worth_a_turn) {
            breath().await;
        }
    }
}

fn give_way() {
    // SAFETY: takes nothing and cannot fail on Linux (sched_yield(2)).
    unsafe { libc::sched_yield() };
}

impl Pace {
    const fn still() -> Self {
        Self {
            spin: Cell::new(Duration::ZERO),
            last: Cell::new(None),
            recent: Cell::new([0; RECENT]),
            score: Cell::new(SURE / 2),
            count: Cell::new(0),
            spinning: Cell::new(false),
            sleeper: Cell::new(None),
            next: Cell::new(0),
        }
    }

    fn moved(&self, id: u32, bytes: usize) {
        if self.spin.get().is_zero() {
            return;
        }
        if bytes > SMALL {
            self.last.set(None);
            return;
        }
        let mut recent = self.recent.get();
        recent.copy_within(..RECENT - 1, 1);
        recent[0] = id;
        self.recent.set(recent);
        self.last.set(Some(Instant::now()));
        if self.spinning.get() {
            self.score.set(self.score.get() + (SURE - self.score.get()) / 16);
            return;
        }
        let count = self.count.get().wrapping_add(1);
        self.count.set(count);
        if is_lone(&recent) && (self.score.get() >= WORTH || count.is_multiple_of(PROBE)) {
            self.spinning.set(true);
            if let Some(sleeper) = self.sleeper.take() {
                sleeper.wake();
            }
        }
    }

    /// While spinning: go on?
    fn is_worth_a_turn(&self) -> bool {
        let fresh = self.last.get().is_some_and(|last| last.elapsed() < self.spin.get());
        if fresh && is_lone(&self.recent.get()) {
            return true;
        }
        if self.last.get().is_some() && !fresh {
            self.score.set(self.score.get() - self.score.get() / 8);
        }
        self.spinning.set(false);
        false
    }
}

/// One or two conversations.
fn is_lone(recent: &[u32; RECENT]) -> bool {
    let first = recent[0];
    let second = recent.iter().find(|id| **id != first);
    second.is_none_or(|second| recent.iter().all(|id| id == &first || id == second))
}

#[cfg(test)]
mod tests;
