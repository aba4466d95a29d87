//! Which authority signs.

use std::sync::Arc;

use mesh_identity::{BuiltinAuthority, LiveAuthority};
use mesh_model::TrustDomain;

use super::RunError;
use crate::config::Config;

/// The one given by files, or else the one in the state directory, made at the first start.
pub(super) fn from_disk(config: &Config, trust_domain: &TrustDomain) -> Result<LiveAuthority, RunError> {
    let authority = match (&config.ca_cert, &config.ca_key) {
        (Some(cert), Some(key)) => {
            BuiltinAuthority::from_files(cert, key, trust_domain).map_err(RunError::GivenAuthority)
        }
        _ => BuiltinAuthority::open_or_create(&config.state_dir, trust_domain).map_err(RunError::Authority),
    }?;
    Ok(LiveAuthority::new(Arc::new(authority)))
}
