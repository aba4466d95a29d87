#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::HashSet;

use super::*;

#[test]
fn a_word_stands_in_the_index_once_and_is_found() {
    let mut words = HashSet::new();
    for code in all() {
        assert!(words.insert(code.word.to_ascii_lowercase()), "{} is there twice", code.word);
        assert_eq!(find(code.word), Some(code));
        for sentence in [code.meaning, code.cause, code.remedy] {
            assert!(sentence.ends_with(['.', '?']) && !sentence.contains("  "), "{}: {sentence}", code.word);
        }
        assert!(!code.seen.is_empty() && !code.seen.contains("  "), "{}", code.word);
    }
    assert_eq!(
        words.len(),
        Reason::ALL.len() + others::GROUPS.iter().map(|(_, codes)| codes.len()).sum::<usize>()
    );
    assert_eq!(find("POLICY_DENIED").map(|code| code.word), Some("policy_denied"));
    assert_eq!(find("no_such_word"), None);
}

#[test]
fn the_document_is_what_the_code_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
    let there = std::fs::read_to_string(path).unwrap();
    assert!(there == document(), "run `cargo xtask gen`: docs/errors.md is not what the code says");
}
