#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use serde_json::json;

use super::*;

fn covers(selector: &str, row: &Value) -> bool {
    selector.parse::<FieldSelector>().unwrap().covers(row)
}

#[test]
fn every_term_has_to_hold_and_keys_are_paths() {
    let row =
        json!({"state": "captured", "reason": null, "id": 7, "dst": {"service": "web"}, "ports": [80, 443]});
    for fits in [
        "state=captured",
        "state==captured, id=7",
        "dst.service=web",
        "ports=443",
        "reason=",
        "reason!=not_ready",
        "nothing=",
    ] {
        assert!(covers(fits, &row), "{fits}");
    }
    for no in ["state=pending", "state=captured,id=8", "dst.service!=web", "ports=8080", "state="] {
        assert!(!covers(no, &row), "{no}");
    }
    for bad in ["", "state", "=captured", "a=b,,c=d"] {
        assert!(bad.parse::<FieldSelector>().is_err(), "{bad}");
    }
}

#[test]
fn a_key_that_no_row_has_is_a_slip_and_near_ones_are_offered() {
    let rows =
        [json!({"state": "captured", "dst": {"service": null}}), json!({"state": "pending", "more": 1})];
    let check = |selector: &str| selector.parse::<FieldSelector>().unwrap().check(rows.iter());
    assert!(check("state=a,dst.service=b,more=1").is_ok());
    let error = check("stat=captured").unwrap_err();
    assert!(error.ends_with("no row has a key stat: there is state"), "{error}");
    assert!("stat=captured".parse::<FieldSelector>().unwrap().check([].iter()).is_ok(), "without rows");
}
