//! From whoever has a line to whoever reads it: one buffer that fills and one that is written, by a thread of its own.
//!
//! ```text
//! push ─▶ filling ── a batch is there, or FLUSH is over ─▶ being written ─▶ out
//!          └─ CAPACITY: left out, counted
//! ```
//!
//! Invariants: a line is in it whole or not at all; nobody who pushes waits for a write; it holds at most twice CAPACITY.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::quiet::Quiet;

/// How many bytes wait at most.
const CAPACITY: usize = 4 << 20;
/// This many are written without delay.
const BATCH: usize = 64 << 10;
/// How long a line waits for others at most.
const FLUSH: Duration = Duration::from_millis(100);
/// How long the agent's end waits for whoever reads.
const PATIENCE: Duration = Duration::from_secs(1);
/// After which it is tried again where somebody has made standard output one that does not wait.
const FULL: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct Queue {
    capacity: usize,
    /// Held for a copy of a line.
    state: Mutex<State>,
    /// Something is there, or is to be written at once.
    wake: Condvar,
    /// Nothing is there, and nothing is being written.
    idle: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    filling: Batch,
    /// A batch is on its way out.
    writing: bool,
    /// Somebody waits for the end.
    flushing: bool,
    /// No more will come.
    stopping: bool,
}

#[derive(Debug, Default)]
struct Batch {
    text: String,
    lines: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl Queue {
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            capacity,
            state: Mutex::default(),
            wake: Condvar::new(),
            idle: Condvar::new(),
            dropped: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, line: &str) {
        let mut state = self.lock();
        let before = state.filling.text.len();
        let after = before + line.len();
        if after > self.capacity {
            drop(state);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.filling.text.push_str(line);
        state.filling.lines += 1;
        drop(state);
        if before == 0 || (before < BATCH && after >= BATCH) {
            self.wake.notify_one();
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Returns when everything that is there now is written, or nobody reads it.
    pub(super) fn flush(&self) {
        let mut state = self.lock();
        state.flushing = true;
        self.wake.notify_one();
        let is_busy = |state: &mut State| state.writing || !state.filling.text.is_empty();
        let waited = self.idle.wait_timeout_while(state, PATIENCE, is_busy);
        let (mut state, _timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        state.flushing = false;
    }

    /// Waits for a batch. False: there will be none.
    fn next(&self, batch: &mut Batch) -> bool {
        let mut state = self.lock();
        state.writing = false;
        if state.filling.text.is_empty() {
            self.idle.notify_all();
        }
        let is_empty = |state: &mut State| state.filling.text.is_empty() && !state.stopping;
        state = self.wake.wait_while(state, is_empty).unwrap_or_else(PoisonError::into_inner);
        if state.filling.text.is_empty() {
            return false;
        }
        let is_small =
            |state: &mut State| state.filling.text.len() < BATCH && !state.flushing && !state.stopping;
        let waited = self.wake.wait_timeout_while(state, FLUSH, is_small);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        std::mem::swap(&mut state.filling, batch);
        state.writing = true;
        true
    }

    fn run(&self, mut out: impl Write) {
        let mut batch = Batch::default();
        let failures = Quiet::default();
        while self.next(&mut batch) {
            if let Err(error) = write_all(&mut out, batch.text.as_bytes()) {
                self.dropped.fetch_add(batch.lines, Ordering::Relaxed);
                if failures.due().is_some() {
                    tracing::warn!(%error, "the access log cannot be written to standard output; its lines are left out");
                }
            }
            batch.lines = 0;
            batch.text.clear();
            // What one burst needed is not kept.
            batch.text.shrink_to(4 * BATCH);
        }
    }
}

/// To the end, whoever may have made the descriptor one that does not wait.
fn write_all(out: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(FULL),
            Err(error) => return Err(error),
        }
    }
    out.flush()
}

/// The thread that writes; ends, having written what is left, when this is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Arc<Queue>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(queue: Queue, out: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Arc::new(queue);
        let own = queue.clone();
        let thread = thread::Builder::new().name("access-log".into()).spawn(move || own.run(out))?;
        Ok(Self { queue, thread: Some(thread) })
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.lock().stopping = true;
        self.queue.wake.notify_one();
        let deadline = Instant::now() + PATIENCE;
        let Some(thread) = self.thread.take() else { return };
        // Whoever does not read keeps nobody from ending.
        while !thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
