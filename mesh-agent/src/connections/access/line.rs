//! A line: the same words in the same order, as a JSON object or as `key=value`.
//!
//! In JSON every key is there, with `null` where there is nothing to say; in text those are left out. A pair of keys that belong
//! to one end is an object in JSON, and has the end's name before it in text: `source.namespace=shop`.
//!
//! Nothing here allocates once the buffer has its size. What others wrote (words of errors, names) goes through `escape`.

use std::fmt::{Display, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_model::{Reason, Workload};
use mesh_telemetry::api::Timestamp;
use mesh_telemetry::logs::Format;

use super::escape::{escape, is_bare, quote};
use super::{Ended, Event};
use crate::connections::{About, End};

/// Longer words are cut: a peer that says much must not fill the log with it.
const MAX_WORDS: usize = 512;

/// What a line is made of.
pub(super) struct Line<'a> {
    pub(super) event: Event,
    pub(super) about: &'a About,
    /// `None`: clean.
    pub(super) reason: Option<Reason>,
    /// Empty: nothing more to say.
    pub(super) detail: &'a str,
    pub(super) ended: &'a Ended,
}

/// The second that was written last: most lines are of the same one.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: u64,
    text: String,
}

impl Clock {
    /// `2026-01-31T08:00:00.123Z`.
    fn write(&mut self, time: SystemTime, out: &mut String) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.text.is_empty() || self.second != since.as_secs() {
            self.second = since.as_secs();
            self.text.clear();
            put(&mut self.text, &Timestamp::from(UNIX_EPOCH + Duration::from_secs(self.second)));
            // The `Z` comes after the milliseconds.
            self.text.pop();
        }
        out.push_str(&self.text);
        put(out, &format_args!(".{:03}Z", since.subsec_millis()));
    }
}

impl Line<'_> {
    /// Appends it, with the end of the line.
    pub(super) fn write(&self, format: Format, clock: &mut Clock, time: SystemTime, out: &mut String) {
        let Self { event, about, reason, detail, ended } = self;
        let mut fields = Fields::begin(out, format);
        fields.time("time", clock, time);
        fields.word("event", event.as_str());
        fields.word("direction", about.direction.as_str());
        fields.word("path", about.path.as_str());
        fields.word("security", about.security.as_str());
        fields.word("verdict", self.verdict());
        fields.word("reason", reason.map_or("clean", Reason::as_str));
        fields.text("detail", (!detail.is_empty()).then(|| cut(detail)));
        fields.group("source");
        fields.end_of(&about.source, None);
        fields.ungroup();
        fields.group("destination");
        fields.end_of(&about.destination, Some(about));
        fields.ungroup();
        fields.text("policy", reason.and_then(|reason| reason.policy_in(detail)));
        fields.number("bytes_sent", Some(ended.bytes_sent));
        fields.number("bytes_received", Some(ended.bytes_received));
        fields.milliseconds("duration_ms", ended.duration);
        fields.milliseconds("connect_ms", ended.transport.connect);
        let microseconds = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        fields.number("rtt_us", ended.transport.rtt.map(microseconds));
        fields.number("retransmits", ended.transport.retransmits);
        fields.finish();
    }

    fn verdict(&self) -> &'static str {
        match self.event {
            Event::Cut => "denied",
            Event::Refused if self.reason.is_some_and(Reason::is_denial) => "denied",
            Event::Closed if self.ended.audited => "audited",
            Event::Refused | Event::Closed => "allowed",
        }
    }
}

fn cut(words: &str) -> &str {
    // The last place at which a character begins, unless all of it is short enough.
    let end = (0..=MAX_WORDS).rev().find(|at| words.is_char_boundary(*at));
    words.get(..end.unwrap_or_default().min(words.len())).unwrap_or(words)
}

/// A String takes whatever is written to it.
fn put(out: &mut String, value: &dyn Display) {
    let _written = write!(out, "{value}");
}

/// Writes keys and values of one line.
struct Fields<'a> {
    out: &'a mut String,
    json: bool,
    /// The next one is the first of its object.
    first: bool,
    group: &'static str,
}

impl<'a> Fields<'a> {
    fn begin(out: &'a mut String, format: Format) -> Self {
        let json = format == Format::Json;
        if json {
            out.push('{');
        }
        Self { out, json, first: true, group: "" }
    }

    fn finish(self) {
        self.out.push_str(if self.json { "}\n" } else { "\n" });
    }

    fn group(&mut self, name: &'static str) {
        if self.json {
            self.key(name);
            self.out.push('{');
            self.first = true;
        }
        self.group = name;
    }

    fn ungroup(&mut self) {
        if self.json {
            self.out.push('}');
            self.first = false;
        }
        self.group = "";
    }

    fn key(&mut self, key: &str) {
        if !std::mem::take(&mut self.first) {
            self.out.push(if self.json { ',' } else { ' ' });
        }
        if self.json {
            self.out.push('"');
            self.out.push_str(key);
            self.out.push_str("\":");
        } else {
            if !self.group.is_empty() {
                self.out.push_str(self.group);
                self.out.push('.');
            }
            self.out.push_str(key);
            self.out.push('=');
        }
    }

    fn null(&mut self, key: &str) {
        if self.json {
            self.key(key);
            self.out.push_str("null");
        }
    }

    /// One of our own words: nothing in it needs an escape.
    fn word(&mut self, key: &str, word: &str) {
        self.key(key);
        let quotes = if self.json { "\"" } else { "" };
        for part in [quotes, word, quotes] {
            self.out.push_str(part);
        }
    }

    /// What is known to show as letters, digits and `:/.-_[]`.
    fn shown(&mut self, key: &str, value: &dyn Display) {
        self.key(key);
        if self.json {
            self.out.push('"');
            put(self.out, value);
            self.out.push('"');
        } else {
            put(self.out, value);
        }
    }

    /// What somebody else wrote.
    fn text(&mut self, key: &str, text: Option<&str>) {
        let Some(text) = text else { return self.null(key) };
        self.key(key);
        if !self.json && is_bare(text) { escape(self.out, text) } else { quote(self.out, text) }
    }

    fn number(&mut self, key: &str, number: Option<u64>) {
        let Some(number) = number else { return self.null(key) };
        self.key(key);
        put(self.out, &number);
    }

    /// To a microsecond.
    fn milliseconds(&mut self, key: &str, time: Option<Duration>) {
        let Some(time) = time else { return self.null(key) };
        self.key(key);
        put(self.out, &format_args!("{}.{:03}", time.as_millis(), time.subsec_micros() % 1_000));
    }

    fn time(&mut self, key: &str, clock: &mut Clock, time: SystemTime) {
        self.key(key);
        let quotes = if self.json { "\"" } else { "" };
        self.out.push_str(quotes);
        clock.write(time, self.out);
        self.out.push_str(quotes);
    }

    /// `dialled`: the end is the one that was dialled, perhaps by way of a Service.
    fn end_of(&mut self, end: &End, dialled: Option<&About>) {
        let workload = end.workload.as_deref();
        let service = dialled.and_then(|about| about.service.as_ref());
        let of = |pick: fn(&Workload) -> &str| workload.map(pick);
        let namespace = of(|workload| &workload.namespace);
        self.text("namespace", namespace.or(service.map(|service| &*service.namespace)));
        self.text("workload", of(|workload| &workload.owner));
        self.text("pod", of(|workload| &workload.name));
        if dialled.is_some() {
            self.text("service", service.map(|service| &*service.name));
        }
        match &end.identity {
            Some(identity) => self.shown("identity", identity),
            None => self.null("identity"),
        }
        let address = SocketAddr::new(end.address.ip().to_canonical(), end.address.port());
        self.shown("address", &address);
    }
}
