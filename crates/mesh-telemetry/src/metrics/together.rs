//! Many who ask for the same at once get the same answer.
//!
//! ```text
//! asks ─▶ waits for whoever is at it ─┬─ that began after it had asked: the same answer
//!                                     └─ that had begun before: begins anew, for all who wait by then
//! ```
//!
//! Invariants: an answer is never older than the question; whoever asks waits for one of each form and for their own at most, however many
//! ask; what is kept is one answer of each form, and goes with the last who waits, or with the next who asks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::Mutex;

use super::Exposition;
use crate::http::Response;

/// Where they meet.
#[derive(Debug, Default)]
pub struct Together {
    /// Held while one is made.
    last: Mutex<Vec<Made>>,
    asking: AtomicUsize,
}

/// The last of its form.
#[derive(Debug)]
struct Made {
    form: Exposition,
    began: Instant,
    answer: Response,
}

/// Somebody asks, until this is dropped.
struct Asks<'a>(&'a AtomicUsize);

impl Together {
    /// What `make` makes of it, or has just made for somebody else.
    pub async fn answer(&self, form: Exposition, make: impl AsyncFnOnce() -> Response) -> Response {
        let asked = Instant::now();
        let asks = Asks::begin(&self.asking);
        let mut last = self.last.lock().await;
        let fits = |made: &&Made| made.form == form && made.began >= asked;
        let answer = if let Some(made) = last.iter().find(fits) {
            made.answer.clone()
        } else {
            let began = Instant::now();
            let answer = make().await;
            last.retain(|made| made.form != form);
            last.push(Made { form, began, answer: answer.clone() });
            answer
        };
        if asks.is_last() {
            last.clear();
        }
        answer
    }
}

impl<'a> Asks<'a> {
    fn begin(asking: &'a AtomicUsize) -> Self {
        asking.fetch_add(1, Ordering::Relaxed);
        Self(asking)
    }

    fn is_last(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 1
    }
}

impl Drop for Asks<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
