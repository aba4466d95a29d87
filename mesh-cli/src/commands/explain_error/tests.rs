#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use mesh_model::Reason;

use super::*;

#[test]
fn every_reason_has_a_cause_and_a_remedy() {
    for reason in Reason::ALL {
        let code = found(reason.as_str()).unwrap();
        let text = text(&code, Style::default());
        assert!(text.starts_with(reason.as_str()), "{text}");
        for part in ["Meaning:\n  ", "Cause:\n  ", "What to do:\n  ", "The application sees:\n  "] {
            assert!(text.contains(part), "{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
    }
}

#[test]
fn a_code_is_found_as_people_type_it_and_near_ones_are_named() {
    assert_eq!(found("policy_denied").unwrap().word, "policy_denied");
    assert_eq!(found(" Policy-Denied").unwrap().word, "policy_denied");
    let error = found("policy_not_allwed").unwrap_err();
    assert!(error.to_string().contains("is it policy_not_allowed"), "{error}");
    assert_eq!(error.exit_code(), 1);
    assert!(found("ECONNREFUSED").unwrap_err().to_string().contains("meshctl logs"));
    assert!(found("zzz").unwrap_err().to_string().contains("lists all of them"));
}

#[test]
fn words_are_wrapped() {
    assert_eq!(wrapped("one two three four", 12), "  one two\n  three four\n");
    assert_eq!(wrapped("averyverylongword x", 8), "  averyverylongword\n  x\n");
}
