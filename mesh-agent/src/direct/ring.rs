//! What the kernel puts into a ring, one after the other, with turns for everybody else in between.

use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How fast a ring is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How many are taken before everybody else has a turn …
    pub(super) at_once: u32,
    /// … of at least this long.
    pub(super) pause: Duration,
}

/// Hands on each one, on a task of the running runtime, once `ready`. `otherwise`: what it means that it cannot.
pub(super) fn follow(
    ready: impl Future<Output = ()> + Send + 'static,
    ring: RingBuf<MapData>,
    pace: Pace,
    otherwise: &'static str,
    hear: impl Fn(&[u8]) + Send + 'static,
) {
    tokio::spawn(async move {
        ready.await;
        // SAFETY: the ring owns its map and answers with that one descriptor until it is dropped, which is when the
        // registration is.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let mut ring = match ring {
            Ok(ring) => ring,
            Err(error) => return tracing::error!(%error, otherwise, "cannot follow the kernel"),
        };
        while let Ok(mut ready) = ring.readable_mut().await {
            let mut left = pace.at_once;
            while let Some(item) = (left > 0).then(|| ready.get_inner_mut().next()).flatten() {
                hear(&item);
                left -= 1;
            }
            match left {
                // Whoever makes the kernel speak must not keep everybody else waiting: the rest comes later, and what the
                // ring has no room for meanwhile is counted and not told.
                0 => {
                    ready.retain_ready();
                    tokio::time::sleep(pace.pause).await;
                }
                _ => ready.clear_ready(),
            }
        }
    });
}
