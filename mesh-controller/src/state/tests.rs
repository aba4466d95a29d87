#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{StateDir, StateError};
use crate::index::Captures;

#[test]
fn captures_are_kept_and_a_damaged_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(&dir.path().join("state")).unwrap();
    assert!(state.captures().unwrap().is_empty());
    let captures: Captures =
        serde_json::from_str(r#"{"words": {"u1": {"node": "one", "word": "captured"}}}"#).unwrap();
    state.keep_captures(&captures).unwrap();
    assert_eq!(state.captures().unwrap(), captures);
    let file = state.path().join("captures.json");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(state.path()).unwrap().permissions().mode() & 0o777, 0o700);

    fs::write(&file, "{").unwrap();
    let error = state.captures().unwrap_err();
    assert!(matches!(&error, StateError::Damaged { .. }), "{error:?}");
    assert!(error.to_string().contains("captures.json"), "{error}");
}

#[test]
fn the_root_is_written_for_all_to_read_and_only_when_it_differs() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path()).unwrap();
    state.keep_root("one").unwrap();
    let file = dir.path().join("root.pem");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    let before = fs::metadata(&file).unwrap().modified().unwrap();
    state.keep_root("one").unwrap();
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), before);
    state.keep_root("two").unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "two");
    // Only what an authority of its own would lose counts as another.
    assert!(!state.holds_another_authority("three"));
    fs::write(dir.path().join("ca.key"), "").unwrap();
    assert!(state.holds_another_authority("three"));
    assert!(!state.holds_another_authority("two"));
}
