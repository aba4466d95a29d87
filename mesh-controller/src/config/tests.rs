#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};

use super::{Config, lifetime};

#[test]
fn the_flags_are_well_formed_and_have_the_documented_defaults() {
    Config::command().debug_assert();
    let config =
        Config::try_parse_from(["mesh-controller", "--dir", "objects", "--agent-tokens", "tokens"]).unwrap();
    assert_eq!(config.listen.to_string(), "0.0.0.0:15010");
    assert_eq!(config.metrics_listen.to_string(), "0.0.0.0:15020");
    assert_eq!(config.trust_domain.as_str(), "cluster.local");
    assert_eq!(config.state_dir.to_str(), Some("/var/lib/weft"));
    assert_eq!(config.admin_socket.to_str(), Some("/run/weft/controller.sock"));
    assert_eq!(config.cert_lifetime, Duration::from_secs(86_400));
}

#[test]
fn wrong_flags_are_usage_errors() {
    let base = ["mesh-controller", "--dir=d", "--agent-tokens=t"];
    for bad in [
        &["--listen=nowhere"][..],
        &["--trust-domain=Bad Domain"],
        &["--ca-cert=c"],
        &["--ca-key=k"],
        &["--cert-lifetime=1s"],
        &["--cert-lifetime=10"],
        &["--cert-lifetime=1y"],
        &["--cert-lifetime=91d"],
        &["--log-format=xml"],
        &["--unknown"],
    ] {
        let error = Config::try_parse_from(base.iter().chain(bad)).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{bad:?}");
    }
    Config::try_parse_from(["mesh-controller", "--dir=d"]).unwrap_err();
}

#[test]
fn lifetimes_have_units() {
    for (text, seconds) in [("60s", 60), ("90m", 5_400), ("24h", 86_400), ("90d", 7_776_000)] {
        assert_eq!(lifetime(text), Ok(Duration::from_secs(seconds)), "{text}");
    }
    for bad in ["", "h", "é", "-1h", "1.5h", "999999999999999999d"] {
        assert!(lifetime(bad).is_err(), "{bad}");
    }
}
