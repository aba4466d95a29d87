#![allow(clippy::unwrap_used, reason = "a test")]

use super::*;
use crate::policy::{Action, Mode, Policy, PolicyKey, Reach, Verdict};

#[test]
fn every_reason_has_a_meaning_a_cause_a_remedy_and_what_the_client_sees() {
    for reason in Reason::ALL {
        let all = [reason.meaning(), reason.cause(), reason.remedy(), reason.client_sees()];
        assert!(all.iter().all(|words| !words.is_empty()), "{reason}");
        for sentence in &all[..3] {
            assert!(sentence.ends_with(['.', '?']) && !sentence.contains('\n'), "{reason}: {sentence}");
            // A line that was broken in the source is not broken, and not wide, in print.
            assert!(!sentence.contains("  "), "{reason}: {sentence}");
        }
        assert_eq!(Reason::of_word(reason.as_str()), Some(*reason));
    }
}

#[test]
fn the_policy_is_read_out_of_every_verdicts_words() {
    let policy = Policy {
        key: PolicyKey::new("shop", "web"),
        reach: Reach::default(),
        action: Action::Deny,
        mode: Mode::Enforce,
        rules: Vec::new(),
    };
    for verdict in [Verdict::Denied(&policy, 3), Verdict::Unmatched(&policy), Verdict::Missing(&policy.key)] {
        let (reason, words) = (verdict.reason().unwrap(), verdict.to_string());
        assert_eq!(reason.policy_in(&words), Some("shop/web"), "{words}");
        assert!(reason.is_denial());
    }
    let strict = Verdict::Strict;
    assert_eq!(strict.reason().unwrap().policy_in(&strict.to_string()), None);
    assert_eq!(Reason::Reset.policy_in("policy shop/web"), None);
    assert_eq!(Reason::PolicyDenied.policy_in("a policy that has changed since"), None);
}
