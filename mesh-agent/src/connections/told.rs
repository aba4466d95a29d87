//! How often the log tells of the same thing. Who can make the agent refuse connections must not be able to fill the disk.
//!
//! Some lines per second for each reason; the next one that is written says how many were not, or a line of its own when
//! metrics are read. The counters have all.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mesh_model::Reason;

#[cfg(test)]
mod tests;

/// Lines per second and reason.
const LINES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(1);

/// What was told of each reason lately.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<Vec<(Reason, Window)>>);

#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u32,
    /// Not told since the last line.
    silent: u64,
}

impl Told {
    /// Whether to tell of one more, and then how many were not told before it.
    pub(super) fn tell(&self, reason: Reason) -> Option<u64> {
        self.tell_at(reason, Instant::now())
    }

    fn tell_at(&self, reason: Reason, now: Instant) -> Option<u64> {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // As many as there are reasons at most.
        let window = match windows.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, window)) => window,
            None => {
                windows.push((reason, Window { since: now, lines: 1, silent: 0 }));
                return Some(0);
            }
        };
        if now.duration_since(window.since) >= WINDOW {
            (window.since, window.lines) = (now, 0);
        }
        if window.lines >= LINES {
            window.silent += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.silent))
    }

    /// What was not told and has no line of its reason after it.
    pub(super) fn rest(&self) -> Vec<(Reason, u64)> {
        self.rest_at(Instant::now())
    }

    fn rest_at(&self, now: Instant) -> Vec<(Reason, u64)> {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let over = |window: &Window| window.silent > 0 && now.duration_since(window.since) >= WINDOW;
        let rest = windows.iter_mut().filter(|(_, window)| over(window));
        rest.map(|(reason, window)| (*reason, std::mem::take(&mut window.silent))).collect()
    }
}
