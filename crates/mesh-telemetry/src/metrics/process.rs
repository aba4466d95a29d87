//! The process's own metrics, read from `/proc/self` at each scrape (but the start, which is worked out once), under the
//! names that every Prometheus client uses. What cannot be read is left out.

use std::fmt;
use std::fs;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Described;

const CPU: &str = "process_cpu_seconds";
const RESIDENT: &str = "process_resident_memory_bytes";
const VIRTUAL: &str = "process_virtual_memory_bytes";
const THREADS: &str = "process_threads";
const OPEN_FDS: &str = "process_open_fds";
const MAX_FDS: &str = "process_max_fds";
const START: &str = "process_start_time_seconds";

/// Name, help, kind.
const METRICS: [(&str, &str, &str); 7] = [
    (CPU, "User and system CPU time spent, in seconds", "counter"),
    (RESIDENT, "Resident memory, in bytes", "gauge"),
    (VIRTUAL, "Virtual memory, in bytes", "gauge"),
    (THREADS, "Threads", "gauge"),
    (OPEN_FDS, "Open file descriptors", "gauge"),
    (MAX_FDS, "File descriptors that may be open (soft limit)", "gauge"),
    (START, "When the process started, in seconds since the epoch", "gauge"),
];

/// Worked out once: two readings of two clocks never quite agree, and a start that moves is a restart to who watches it.
static STARTED: OnceLock<f64> = OnceLock::new();

#[derive(Debug)]
pub(super) struct Process;

/// The parts of `/proc/self/stat` that are shown (proc(5)).
#[derive(Debug, PartialEq)]
pub(super) struct Stat {
    /// User and system time, in clock ticks.
    pub(super) cpu_ticks: u64,
    pub(super) threads: i64,
    /// After boot, in clock ticks.
    pub(super) start_ticks: u64,
    /// Bytes.
    pub(super) virtual_size: u64,
    pub(super) resident_pages: u64,
}

pub(super) fn described() -> Vec<Described> {
    METRICS
        .iter()
        .map(|(name, help, kind)| Described {
            name: format!("{name}{}", if *kind == "counter" { "_total" } else { "" }),
            help: format!("{help}."),
            kind,
            labels: Vec::new(),
        })
        .collect()
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let ticks = sysconf(libc::_SC_CLK_TCK);
        let page = sysconf(libc::_SC_PAGESIZE);
        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| Stat::parse(&stat)) {
            put(&mut encoder, CPU, &ConstCounter::new(stat.cpu_ticks as f64 / ticks as f64))?;
            put(&mut encoder, RESIDENT, &ConstGauge::new((stat.resident_pages * page) as i64))?;
            put(&mut encoder, VIRTUAL, &ConstGauge::new(stat.virtual_size as i64))?;
            put(&mut encoder, THREADS, &ConstGauge::new(stat.threads))?;
            let work_out = || started(stat.start_ticks as f64 / ticks as f64);
            let known = STARTED.get().copied();
            if let Some(start) = known.or_else(|| work_out().map(|start| *STARTED.get_or_init(|| start))) {
                put(&mut encoder, START, &ConstGauge::new(start))?;
            }
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // The listing itself holds one.
            put(&mut encoder, OPEN_FDS, &ConstGauge::new(open.count() as i64 - 1))?;
        }
        if let Some(limit) = fs::read_to_string("/proc/self/limits").ok().and_then(|limits| fd_limit(&limits))
        {
            put(&mut encoder, MAX_FDS, &ConstGauge::new(limit))?;
        }
        Ok(())
    }
}

fn put(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    metric: &impl EncodeMetric,
) -> Result<(), fmt::Error> {
    let help = METRICS.iter().find(|(known, ..)| *known == name).map_or("", |(_, help, _)| help);
    metric.encode(encoder.encode_descriptor(name, &format!("{help}."), None, metric.metric_type())?)
}

impl Stat {
    /// The command's name may hold blanks and parentheses, so fields are counted from the last parenthesis.
    pub(super) fn parse(stat: &str) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(')')?;
        // Field 3 of proc(5) is the first here.
        let fields: Vec<_> = fields.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: number(14)? + number(15)?,
            threads: i64::try_from(number(20)?).ok()?,
            start_ticks: number(22)?,
            virtual_size: number(23)?,
            resident_pages: number(24)?,
        })
    }
}

/// The soft limit of open files, from `/proc/self/limits`; `None` for "unlimited".
pub(super) fn fd_limit(limits: &str) -> Option<i64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Seconds since the epoch of a moment given in seconds after boot.
fn started(after_boot: f64) -> Option<f64> {
    let uptime: f64 =
        fs::read_to_string("/proc/uptime").ok()?.split_ascii_whitespace().next()?.parse().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    // To the tenth: both sources have hundredths.
    Some(((now - uptime + after_boot) * 10.0).round() / 10.0)
}

fn sysconf(name: libc::c_int) -> u64 {
    // SAFETY: sysconf takes an integer and touches no memory of ours.
    let value = unsafe { libc::sysconf(name) };
    u64::try_from(value).ok().filter(|value| *value > 0).unwrap_or(1)
}
