//! Of which connections there is a line. Pure.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh_model::{AccessLogMode, Share};

use super::Event;
use crate::connections::{About, End};
use crate::settings::AccessLog;

/// Cheap first: most of them are not wanted by the mode alone.
pub(super) fn wants(log: &AccessLog, event: Event, about: &About, duration: Option<Duration>) -> bool {
    let AccessLog { mode, format: _, sample, namespaces, min_duration } = log;
    let by_mode = match (mode, event) {
        (AccessLogMode::Off, _) => false,
        (AccessLogMode::Refused, Event::Closed) => false,
        (AccessLogMode::Refused, Event::Refused | Event::Cut) | (AccessLogMode::All, _) => true,
    };
    by_mode
        && namespaces.as_ref().is_none_or(|names| is_among(names, about))
        && (event != Event::Closed || (is_long(*min_duration, duration) && is_sampled(*sample, about)))
}

/// Who has no measure of its length may be long.
fn is_long(min: Duration, duration: Option<Duration>) -> bool {
    min.is_zero() || duration.is_none_or(|duration| duration >= min)
}

/// Either end, or the Service that was dialled.
fn is_among(names: &[Arc<str>], about: &About) -> bool {
    let of_end =
        |end: &End| end.workload.as_ref().is_some_and(|workload| names.contains(&workload.namespace));
    of_end(&about.source)
        || of_end(&about.destination)
        || about.service.as_ref().is_some_and(|service| names.contains(&service.namespace))
}

/// By both ends' addresses, which the agents of both nodes know: either both have a line of it or neither.
fn is_sampled(sample: Share, about: &About) -> bool {
    sample == Share::ALL || sample.holds(number(about.source.address, about.destination.address))
}

/// Even over all numbers, and the same wherever it is worked out.
fn number(source: SocketAddr, destination: SocketAddr) -> u64 {
    let mut number = 0xcbf2_9ce4_8422_2325;
    for end in [source, destination] {
        let ip = match end.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        number = stir(number ^ (ip >> 64) as u64);
        number = stir(number ^ ip as u64);
        number = stir(number ^ u64::from(end.port()));
    }
    number
}

/// Each bit of what goes in moves half of those that come out.
fn stir(number: u64) -> u64 {
    let number = (number ^ (number >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let number = (number ^ (number >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    number ^ (number >> 32)
}
