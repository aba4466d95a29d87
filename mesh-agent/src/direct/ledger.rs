//! What of the kernel's counts is in the metrics, and whose it is: kept on the node's disk, so that another agent goes on where this
//! one ends.
//!
//! ```text
//! flows ─▶ Ledger: what each pair was given ─┐
//!          what each row amounted to ────────┴─ every EVERY, and before rows are forgotten ─▶ .flows.new ─ rename ─▶ flows
//! start:   flows, where it is of these maps ─▶ the metrics as they were; from there on, what the kernel's rows have more
//! ```
//!
//! The kernel's rows alone say what went, and not whose it was: a pod that is gone has none any more, and an address is somebody
//! else's. Without the file all that the rows have is counted anew, under whoever they are now.
//!
//! Invariants: what the file says of rows and of pairs is of one moment; a row is in the file before the kernel forgets it, unless the
//! disk takes nothing; nobody waits for the disk but who writes. The file may be old: nothing is lost or counted twice by that, as the rows go on counting. It is not synced to the disk, as the maps do not
//! outlive the machine either.

mod page;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mesh_common::{Durations, FlowCount, FlowKey};
use mesh_telemetry::api::Direction;

use super::flows::Seen;
use crate::kernel::maps::Maps;
use crate::metrics::{Metrics, Pair};
use crate::outbound::Chain;
use page::{Page, Row};

/// Differs from one start of the machine to the next (random(4)).
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// The file's name in its directory.
const FILE: &str = "flows";
/// A larger one is not ours: many times what a full map of rows and the usual cap on series come to.
const MAX_FILE: u64 = 64 << 20;
/// How often it is written at most …
const EVERY: Duration = Duration::from_secs(15);
/// … and never for more than this part of the time, should the disk be slow.
const SHARE: u32 = 20;

/// Where it is kept, and which maps it is about.
#[derive(Clone, Debug)]
pub struct Place {
    /// The directory.
    pub directory: PathBuf,
    /// Of this start of the machine: numbers of maps begin anew with it.
    pub boot: String,
    /// The kernel's number of the map of rows.
    pub map: u32,
}

/// The file, and how it goes with it.
#[derive(Debug)]
pub struct Disk {
    place: Place,
    /// When the last write ended, and how long it took.
    wrote: Option<(Instant, Duration)>,
    /// What was last wrong with it.
    complaint: String,
}

/// What has been given to pairs.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Somebody keeps it.
    is_kept: bool,
    /// By the pair's address, which stays its own for as long as this knows it.
    given: HashMap<usize, Given>,
    /// The file is older than this.
    unwritten: bool,
}

/// What was given to one.
#[derive(Debug)]
struct Given {
    pair: Weak<Pair>,
    /// `closed`: those that ended cleanly.
    count: FlowCount,
}

/// Why there is nothing to go on from, or nothing for the next agent.
#[derive(Debug, thiserror::Error)]
enum LedgerError {
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is larger than {} MiB", path.display(), MAX_FILE >> 20)]
    TooLarge { path: PathBuf },
    #[error("{} is not what an agent has kept", path.display())]
    Content {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

impl Place {
    /// For these maps.
    pub fn of(directory: &Path, maps: &Maps) -> Option<Self> {
        let boot = fs::read_to_string(BOOT).ok();
        let found = boot.zip(maps.direct().flows_id()).map(|(boot, map)| Self {
            directory: directory.into(),
            boot: boot.trim().to_owned(),
            map,
        });
        if found.is_none() {
            tracing::warn!(
                "what connections that no agent carries amount to is not kept on disk: this kernel tells neither its boot nor its map"
            );
        }
        found
    }

    fn file(&self) -> PathBuf {
        self.directory.join(FILE)
    }
}

impl Disk {
    /// There.
    pub fn at(place: Place) -> Self {
        Self { place, wrote: None, complaint: String::new() }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Whether the last write is long enough ago.
    pub(super) fn is_due(&self) -> bool {
        self.wrote.is_none_or(|(at, took)| at.elapsed() >= EVERY.max(took * SHARE))
    }

    /// Whether it is there now.
    pub(super) fn write(&mut self, page: &Page) -> bool {
        let began = Instant::now();
        let written = write(&self.place.directory, page);
        self.wrote = Some((Instant::now(), began.elapsed()));
        match written {
            Ok(()) => {
                self.complaint.clear();
                true
            }
            Err(error) => {
                let complaint = Chain(&error).to_string();
                if complaint != self.complaint {
                    tracing::warn!(
                        error = complaint,
                        "what connections that no agent carries amount to is not kept on disk (--cache-dir); trying again"
                    );
                    self.complaint = complaint;
                }
                false
            }
        }
    }
}

impl Ledger {
    /// Takes over what an earlier agent kept, if that was of these maps: what its pairs were given is in the metrics again. Returns the
    /// rows that it knew.
    pub(super) fn begin(&mut self, disk: &Disk, metrics: &Metrics) -> HashMap<FlowKey, Seen> {
        self.is_kept = true;
        match read(&disk.place.file()) {
            Ok(Some(page)) if page.is_of(&disk.place) => self.resume(page, metrics),
            Ok(_) => HashMap::new(),
            Err(error) => {
                tracing::warn!(
                    error = %Chain(&error),
                    "connections that no agent carries are counted anew from the kernel's maps: those of pods that are gone are missing"
                );
                HashMap::new()
            }
        }
    }

    fn resume(&mut self, page: Page, metrics: &Metrics) -> HashMap<FlowKey, Seen> {
        let pairs: Vec<Option<Arc<Pair>>> =
            page.pairs.iter().map(|of| metrics.labelled(&of.labels)).collect();
        // Series of another profile are others, and begin with what the kernel has; some may be left of the profile before.
        if !pairs.is_empty() && pairs.iter().all(Option::is_none) {
            return HashMap::new();
        }
        for (pair, of) in pairs.iter().zip(&page.pairs) {
            if let Some(pair) = pair {
                self.give(pair, &of.count.0);
            }
        }
        let rows = page.rows.into_iter().map(|Row { key, count, under }| {
            let under = under.iter().filter_map(|index| pairs.get(*index)?.clone()).collect();
            (key.0, Seen::resumed(count.0, under))
        });
        let rows: HashMap<FlowKey, Seen> = rows.collect();
        tracing::info!(
            pairs = pairs.len(),
            rows = rows.len(),
            "connections that no agent carries are counted on from where the last agent ended"
        );
        rows
    }

    /// Adds what is new to a pair's counters, and notes it.
    pub(super) fn give(&mut self, pair: &Arc<Pair>, more: &FlowCount) {
        pair.opened.inc_by(more.opened);
        pair.closed_cleanly(more.closed);
        pair.failed(more.failed);
        pair.sent.inc_by(more.sent);
        pair.received.inc_by(more.received);
        // The client's word: it is not told twice.
        if pair.direction() == Direction::Outbound {
            pair.retransmits.inc_by(more.retransmits);
            pair.measured(&more.connects, &more.round_trips);
        }
        if !self.is_kept {
            return;
        }
        let address = Arc::as_ptr(pair).addr();
        let given = self.given.entry(address);
        let given = given.or_insert_with(|| Given { pair: Arc::downgrade(pair), count: FlowCount::NONE });
        given.count = sum(&given.count, more);
        self.unwritten = true;
    }

    /// The file says something else.
    pub(super) fn is_old(&mut self) {
        self.unwritten = true;
    }

    /// What is to be written, if there is anything new.
    pub(super) fn page(&mut self, place: &Place, rows: &HashMap<FlowKey, Seen>) -> Option<Page> {
        if !std::mem::take(&mut self.unwritten) {
            return None;
        }
        // Those that are not shown any more.
        self.given.retain(|_, given| given.pair.strong_count() > 0);
        let mut page = Page::of(place);
        let mut numbers = HashMap::new();
        for (address, given) in &self.given {
            let Some(pair) = given.pair.upgrade() else { continue };
            numbers.insert(*address, page.pairs.len());
            page.pairs.push(page::OfPair { labels: pair.labels().clone(), count: page::Count(given.count) });
        }
        let rows = rows.iter().map(|(key, seen)| {
            let under = seen.under().filter_map(|pair| numbers.get(&Arc::as_ptr(&pair).addr()).copied());
            Row { key: page::Key(*key), count: page::Count(seen.count), under: under.collect() }
        });
        page.rows.extend(rows);
        Some(page)
    }
}

/// What there is more now. Less than nothing is nothing.
pub(super) fn difference(now: &FlowCount, before: &FlowCount) -> FlowCount {
    each(now, before, u64::saturating_sub)
}

fn sum(one: &FlowCount, other: &FlowCount) -> FlowCount {
    each(one, other, u64::saturating_add)
}

fn each(one: &FlowCount, other: &FlowCount, of: fn(u64, u64) -> u64) -> FlowCount {
    let durations = |one: &Durations, other: &Durations| Durations {
        sum: of(one.sum, other.sum),
        counts: std::array::from_fn(|at| of(one.counts[at], other.counts[at])),
    };
    FlowCount {
        opened: of(one.opened, other.opened),
        closed: of(one.closed, other.closed),
        failed: of(one.failed, other.failed),
        sent: of(one.sent, other.sent),
        received: of(one.received, other.received),
        retransmits: of(one.retransmits, other.retransmits),
        connects: durations(&one.connects, &other.connects),
        round_trips: durations(&one.round_trips, &other.round_trips),
    }
}

fn read(path: &Path) -> Result<Option<Page>, LedgerError> {
    let failed = |source| LedgerError::Io { action: "read", path: path.into(), source };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(LedgerError::TooLarge { path: path.into() });
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| LedgerError::Content { path: path.into(), source })
}

/// In one step: whoever reads it finds this or the one before.
fn write(directory: &Path, page: &Page) -> Result<(), LedgerError> {
    let (path, new) = (directory.join(FILE), directory.join(format!(".{FILE}.new")));
    let write = || {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        let mut file = BufWriter::with_capacity(64 << 10, file);
        serde_json::to_writer(&mut file, page)?;
        file.flush()?;
        fs::rename(&new, &path)
    };
    write().map_err(|source| LedgerError::Io { action: "write", path: path.clone(), source })
}
