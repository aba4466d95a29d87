//! What an agent or the controller serves at one moment, to be compared with what it serves at another.
//!
//! Invariant: a metric that has no sample is not zero: it is not there.

use std::collections::BTreeMap;

/// Samples by name, each with its labels as they are written.
#[derive(Clone, Debug, Default)]
pub struct Scrape(BTreeMap<String, Vec<(String, f64)>>);

impl Scrape {
    /// Of an exposition in Prometheus' text form. Lines that are no samples are left out.
    pub fn parse(text: &str) -> Self {
        let mut samples: BTreeMap<String, Vec<(String, f64)>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = labels.trim_end_matches('}').to_owned();
            samples.entry(name.to_owned()).or_default().push((labels, value));
        }
        Self(samples)
    }

    /// The sum of a metric's samples that have all of these labels (`name="value"`), of a histogram the number of what it has observed;
    /// `None` where there is no such sample.
    pub fn sum(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let samples = self.0.get(name).or_else(|| self.0.get(&format!("{name}_count")))?;
        let mut those = samples
            .iter()
            .filter(|(of, _)| labels.iter().all(|label| of.split(',').any(|has| has == *label)))
            .map(|(_, value)| *value)
            .peekable();
        those.peek().is_some().then(|| those.sum())
    }

    /// A metric's values by those of one of its labels.
    pub fn by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let samples = self.0.get(name).into_iter().flatten();
        let value_of = |labels: &str| {
            let mut pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
            pairs.find(|(name, _)| *name == label).map(|(_, value)| value.trim_matches('"').to_owned())
        };
        samples.filter_map(|(labels, value)| Some((value_of(labels)?, *value))).collect()
    }
}

#[cfg(test)]
mod tests;
