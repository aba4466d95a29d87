//! The metrics registry and the two text forms that scrapers ask for.
//!
//! ```text
//! each end's metrics (`weft_…`) + process metrics ──▶ OpenMetrics text ──▶ as it is, or rewritten as the classic form
//! ```
//!
//! Names are given without prefix and without `_total`; [`Registry::described`] lists them as scrapers see them, so
//! that a test can hold them against the documentation. Invariants: a name is registered once; help texts are one
//! line. Not here: what is counted (each end's `metrics` module).

use std::fmt;
use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{ACCEPT, HeaderValue};
use prometheus_client::encoding::{EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Metric, Registry as Inner};

use crate::http::{Request, Response};

mod classic;
mod process;
#[cfg(test)]
mod tests;
mod together;

pub use together::Together;

/// Before the name of every metric of the mesh.
pub const PREFIX: &str = "weft";

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of a process. Filled at start, then shared.
#[derive(Debug)]
pub struct Registry {
    mesh: Inner,
    /// Under the names that every Prometheus client uses, so without the prefix.
    process: Inner,
    described: Vec<Described>,
}

/// A metric as documentation speaks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The name that queries use, with `weft_`, and `_total` for a counter; a histogram's without `_bucket`.
    pub name: String,
    /// What it counts, one line, with its full stop.
    pub help: String,
    /// `counter`, `gauge`, `histogram`, `info` or `unknown`.
    pub kind: &'static str,
    /// The names of its labels.
    pub labels: Vec<&'static str>,
}

/// A text form of the exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text 0.0.4: no exemplars, no units, `_total` is part of a counter's family name.
    Classic,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// Only the process metrics: CPU seconds, memory, file descriptors, start time.
    pub fn new() -> Self {
        let mut process = Inner::default();
        process.register_collector(Box::new(process::Process));
        Self { mesh: Inner::with_prefix(PREFIX), process, described: process::described() }
    }

    /// Adds a metric without labels: `name` without `weft_` and without `_total`; `help` one line without its full stop.
    pub fn register(&mut self, name: &str, help: &str, metric: impl Metric) {
        self.register_by(&[], name, help, metric);
    }

    /// Adds one with labels, which documentation speaks of by these names.
    pub fn register_by(&mut self, labels: &[&'static str], name: &str, help: &str, metric: impl Metric) {
        let (kind, suffix) = match EncodeMetric::metric_type(&metric) {
            MetricType::Counter => ("counter", "_total"),
            MetricType::Gauge => ("gauge", ""),
            MetricType::Histogram => ("histogram", ""),
            MetricType::Info => ("info", "_info"),
            MetricType::Unknown => ("unknown", ""),
        };
        let described = Described {
            name: format!("{PREFIX}_{name}{suffix}"),
            help: format!("{help}."),
            kind,
            labels: labels.to_vec(),
        };
        debug_assert!(!name.ends_with("_total"), "{name}: _total is added by itself");
        debug_assert!(!help.contains(['\n', '\\']) && !help.ends_with('.'), "{name}: help is one plain line");
        debug_assert!(
            self.described.iter().all(|other| other.name != described.name),
            "{name} is registered twice"
        );
        self.described.push(described);
        self.mesh.register(name, help, metric);
    }

    /// A table of them for documentation (Markdown), but for the process's own, which every program has.
    pub fn reference(&self) -> String {
        let rows = self.described.iter().filter(|metric| metric.name.starts_with(PREFIX)).map(|metric| {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            format!("| `{}` | {} | {} | {} |\n", metric.name, metric.kind, labels.join(", "), metric.help)
        });
        format!("| metric | type | labels | what |\n|---|---|---|---|\n{}", rows.collect::<String>())
    }

    /// Whether a document has that table between its marks `<!-- PART: … -->` and `<!-- PART: end -->`. Writes it there if the
    /// variable `WEFT_WRITE_DOCS` is set. For tests.
    ///
    /// # Errors
    /// If the file cannot be read or written, or has no such marks.
    pub fn is_documented(&self, file: &std::path::Path, part: &str) -> std::io::Result<bool> {
        let text = std::fs::read_to_string(file)?;
        let no_marks = || std::io::Error::other(format!("{} has no marks of {part}", file.display()));
        let begin = text.find(&format!("<!-- {part}: ")).ok_or_else(no_marks)?;
        let begin = begin + text[begin..].find('\n').ok_or_else(no_marks)? + 1;
        let end = begin + text[begin..].find(&format!("<!-- {part}: end")).ok_or_else(no_marks)?;
        let wanted = self.reference();
        if std::env::var_os("WEFT_WRITE_DOCS").is_some() {
            std::fs::write(file, [&text[..begin], &wanted, &text[end..]].concat())?;
            return Ok(true);
        }
        Ok(text[begin..end] == wanted)
    }

    /// Every metric there is, in the order they were registered, whether or not it has a value yet.
    pub fn described(&self) -> &[Described] {
        &self.described
    }

    /// All values as text. Fails only where a value cannot be written.
    pub fn render(&self, exposition: Exposition) -> Result<String, fmt::Error> {
        let mut body = String::new();
        text::encode_registry(&mut body, &self.process)?;
        text::encode_registry(&mut body, &self.mesh)?;
        match exposition {
            Exposition::OpenMetrics => {
                text::encode_eof(&mut body)?;
                Ok(body)
            }
            Exposition::Classic => Ok(classic::rewrite(&body)),
        }
    }

    /// The same, as whoever asked for it gets it.
    pub fn answer(&self, exposition: Exposition) -> Response {
        match self.render(exposition) {
            Ok(body) => Response::typed(HeaderValue::from_static(exposition.content_type()), body),
            Err(_) => Response::error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "a metric's value cannot be written as text",
            ),
        }
    }
}

impl Exposition {
    /// The form that an `Accept` header asks for: OpenMetrics where it is named and plain text is not preferred.
    pub fn accepted(accept: Option<&str>) -> Self {
        let accept = accept.unwrap_or_default();
        let openmetrics = quality(accept, "application/openmetrics-text");
        let plain = quality(accept, "text/plain");
        if openmetrics > 0.0 && openmetrics >= plain { Self::OpenMetrics } else { Self::Classic }
    }

    /// The form that a request asks for.
    pub fn asked(request: &Request) -> Self {
        Self::accepted(request.header(ACCEPT))
    }

    /// What it is called on the wire.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => OPENMETRICS,
            Self::Classic => CLASSIC,
        }
    }
}

/// How much an `Accept` header (RFC 9110, section 12.5.1) wants a media type that it names: 0 where it does not.
fn quality(accept: &str, media_type: &str) -> f32 {
    accept
        .split(',')
        .filter_map(|item| {
            let mut parts = item.split(';').map(str::trim);
            parts.next().filter(|name| name.eq_ignore_ascii_case(media_type))?;
            let quality = parts.find_map(|parameter| parameter.strip_prefix("q="));
            Some(quality.map_or(1.0, |quality| quality.trim().parse().unwrap_or(0.0)))
        })
        .fold(0.0, f32::max)
}

/// The handler for `GET /metrics`.
pub fn endpoint(
    registry: Arc<Registry>,
) -> impl Fn(Request) -> std::future::Ready<Response> + Send + Sync + 'static {
    move |request| std::future::ready(registry.answer(Exposition::asked(&request)))
}
