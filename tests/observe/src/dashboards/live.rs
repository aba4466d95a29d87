//! Running every query of dashboards against a Prometheus that has scraped something.

use std::fmt;

use anyhow::Result;

use super::{Query, Variables};
use crate::prometheus::Prometheus;

/// How each query came out.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Those that returned data.
    pub answered: Vec<Query>,
    /// Those that returned nothing, or nothing that is a number.
    pub empty: Vec<Query>,
    /// Those that Prometheus refused, with its words.
    pub failed: Vec<(Query, String)>,
}

impl Report {
    /// Did each return data?
    pub fn is_whole(&self) -> bool {
        self.empty.is_empty() && self.failed.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (answered, empty, failed) = (self.answered.len(), self.empty.len(), self.failed.len());
        write!(f, "{answered} with data, {empty} without, {failed} refused")?;
        for query in &self.empty {
            write!(f, "\n  no data: {query}")?;
        }
        for (query, why) in &self.failed {
            write!(f, "\n  refused: {query}: {why}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {:?} {}: {}", self.dashboard, self.panel, self.reference, self.expression)
    }
}

/// Runs each query once, now.
pub fn run(prometheus: &Prometheus, queries: &[Query], variables: &Variables) -> Result<Report> {
    let mut report = Report::default();
    for query in queries {
        match prometheus.query(&variables.put_into(&query.expression)?) {
            Ok(samples) if samples.iter().any(|sample| !sample.value.is_nan()) => {
                report.answered.push(query.clone())
            }
            Ok(_) => report.empty.push(query.clone()),
            Err(error) => report.failed.push((query.clone(), format!("{:#}", error.root_cause()))),
        }
    }
    Ok(report)
}
