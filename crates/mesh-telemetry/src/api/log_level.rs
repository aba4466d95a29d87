//! Question and answer of `/v1/log-level`, on an agent and on a controller.

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevel {
    /// The filter in force, as `RUST_LOG` has it.
    pub filter: String,
    /// The one that the process was started with.
    pub start: String,
    /// When what was there before is put back; `null`: it stays.
    pub until: Option<Timestamp>,
}

/// What is to be logged; POST.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetLogLevel {
    /// The filter; `null`: the one that the process was started with.
    pub filter: Option<String>,
    /// For so long, and then as before; `null`: for good.
    pub seconds: Option<u64>,
}
