//! Policies in words, for `meshctl` and log lines.

use std::fmt;

use super::{Condition, IpBlock, Rule, Source};

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sources.as_deref() {
            None => f.write_str("from anybody")?,
            Some([]) => f.write_str("from nobody")?,
            Some(sources) => {
                f.write_str("from ")?;
                list(f, sources, " or ")?;
            }
        }
        if !self.ports.is_empty() {
            f.write_str(" to port ")?;
            for (at, range) in self.ports.iter().enumerate() {
                let comma = if at == 0 { "" } else { ", " };
                match range.start() == range.end() {
                    true => write!(f, "{comma}{}", range.start())?,
                    false => write!(f, "{comma}{}-{}", range.start(), range.end())?,
                }
            }
        }
        if self.layer7 { f.write_str(", and HTTP attributes") } else { Ok(()) }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.all.as_slice() {
            [] => f.write_str("anybody")?,
            all => list(f, all, " and ")?,
        }
        for not in &self.none {
            f.write_str(" but not ")?;
            list(f, not, " and ")?;
        }
        Ok(())
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(pattern) => write!(f, "{pattern}"),
            Self::Address(block) => write!(f, "{block}"),
        }
    }
}

impl fmt::Display for IpBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.net)?;
        for (at, net) in self.except.iter().enumerate() {
            write!(f, "{}{net}", if at == 0 { " without " } else { ", " })?;
        }
        Ok(())
    }
}

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, all: &[T], between: &str) -> fmt::Result {
    for (at, one) in all.iter().enumerate() {
        write!(f, "{}{one}", if at == 0 { "" } else { between })?;
    }
    Ok(())
}
