//! Waiting without sleeping in tests: ask again until the answer is right or the deadline has passed.

use std::time::{Duration, Instant};

use anyhow::bail;

/// Time between two questions. Short against every deadline used, long against one question.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks `probe` until it answers `Ok`, at least once and for `deadline` at most. The failure carries its last answer.
pub fn eventually<T>(deadline: Duration, mut probe: impl FnMut() -> Result<T, String>) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        let last = match probe() {
            Ok(value) => return Ok(value),
            Err(last) => last,
        };
        if start.elapsed() >= deadline {
            bail!("still not so after {:.1} s: {last}", start.elapsed().as_secs_f64());
        }
        std::thread::sleep(PAUSE);
    }
}
