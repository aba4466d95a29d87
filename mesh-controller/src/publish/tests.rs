#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::Tokens;

fn file(dir: &tempfile::TempDir, text: &str, mode: u32) -> PathBuf {
    let path = dir.path().join("tokens");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn a_token_is_one_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let text = "# nodes\none  alpha\n\n  two\tbeta  \none gamma\n";
    let tokens = Tokens::open(&file(&dir, text, 0o600)).unwrap();
    for (token, node) in [
        ("alpha", Some("one")),
        ("beta", Some("two")),
        ("gamma", Some("one")),
        ("delta", None),
        ("", None),
        ("one", None),
    ] {
        assert_eq!(tokens.node_of(token).unwrap().as_deref(), node, "{token}");
    }
    // Read anew each time.
    file(&dir, "one delta\n", 0o400);
    assert_eq!(tokens.node_of("alpha").unwrap(), None);
    assert_eq!(tokens.node_of("delta").unwrap().as_deref(), Some("one"));
}

#[test]
fn a_bad_file_is_refused_with_the_remedy_and_never_shows_a_token() {
    let dir = tempfile::tempdir().unwrap();
    for (text, mode, wanted) in [
        ("one secret\n", 0o644, "chmod 0600"),
        ("one secret\n", 0o640, "chmod 0600"),
        ("one\n", 0o600, "line 1"),
        ("# fine\none secret extra\n", 0o600, "line 2"),
        ("one secret\ntwo secret\n", 0o600, "line 2"),
    ] {
        let error = Tokens::open(&file(&dir, text, mode)).unwrap_err().to_string();
        assert!(error.contains(wanted) && !error.contains("secret"), "{text:?}: {error}");
    }
    let error = Tokens::open(&dir.path().join("missing")).unwrap_err().to_string();
    assert!(error.contains("NODE TOKEN") && error.contains("0600"), "{error}");
}
