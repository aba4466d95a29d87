#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

#[test]
fn one_question_will_do_for_all_nodes() {
    assert_eq!(own("12", "a"), Ok(Some(12)));
    assert_eq!(own("a:12,b:44", "b"), Ok(Some(44)));
    assert_eq!(own("a:12,b:44", "c"), Ok(None));
    assert!(own("a:x", "a").is_err() && own("x", "a").is_err());
}
