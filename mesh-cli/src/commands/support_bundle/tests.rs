#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use flate2::read::GzDecoder;

use super::scrub::STRUCK;
use super::scrub::tests::{key, token};
use super::*;

#[test]
fn a_bundle_holds_its_parts_and_no_planted_secret() {
    let planted = format!("{} and {} and Bearer {}", key("PRIVATE KEY"), token(), token());
    let mut bundle = Bundle::new(Vec::new());
    bundle.json("status.json", json!({"version": "0.1.0", "last_error": planted})).unwrap();
    bundle.text("metrics.txt", &format!("# HELP x\nx{{a=\"{}\"}} 1\n", token())).unwrap();
    bundle.json("../../etc/x/config.json", json!(planted)).unwrap();
    let answer = Ok(json!({"error": planted}));
    bundle.take("pods.json", FromNode { node: Some("a".into()), answer }).unwrap();
    bundle.lacks("check.json", &planted);
    let (bytes, parts, errors) = bundle.finish().unwrap();
    assert_eq!((parts, errors.len()), (4, 1));
    let mut archive = tar::Archive::new(GzDecoder::new(bytes.as_slice()));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        assert_eq!(entry.header().mode().unwrap(), 0o600);
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(name, text);
    }
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "weft-support/_/_/etc/x/config.json",
            "weft-support/a/pods.json",
            "weft-support/errors.txt",
            "weft-support/metrics.txt",
            "weft-support/status.json"
        ]
    );
    for (name, text) in &files {
        assert!(
            !text.contains("planted") && !text.contains("MIIE") && !text.contains("eyJhbG"),
            "{name}: {text}"
        );
        assert!(text.contains(STRUCK), "{name}: {text}");
    }
    assert!(files["weft-support/status.json"].contains("0.1.0"));
}

#[test]
fn only_what_is_on_the_list_is_asked_for() {
    assert!(PARTS.iter().all(|(_, path)| path.starts_with("/v1/") && !path.contains('?')));
    assert!(OF_CONTROLLER.iter().all(|name| PARTS.iter().any(|(part, _)| part == name)));
}

#[test]
fn a_file_that_is_there_is_not_written_over() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bundle.tar.gz");
    // Before it begins, and where it comes while the bundle is written.
    let (late, _file) = Unfinished::create(&file, false).unwrap();
    fs::write(&file, "mine").unwrap();
    for refused in [late.finish(), Unfinished::create(&file, false).map(drop)] {
        let refused = refused.unwrap_err();
        assert!(refused.to_string().contains("--force") && refused.exit_code() == 1, "{refused}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    assert_eq!(names(directory.path()), ["bundle.tar.gz"]);
}

#[test]
fn with_force_the_name_is_replaced_and_neither_mode_nor_link_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (file, other) = (directory.path().join("bundle.tar.gz"), directory.path().join("other"));
    fs::write(&other, "mine").unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::symlink(&other, &file).unwrap();
    let (unfinished, mut written) = Unfinished::create(&file, true).unwrap();
    written.write_all(b"bundle").unwrap();
    unfinished.finish().unwrap();
    assert_eq!(fs::read_to_string(&other).unwrap(), "mine");
    let metadata = fs::symlink_metadata(&file).unwrap();
    assert!(metadata.is_file());
    assert_eq!(
        (metadata.permissions().mode() & 0o777, fs::read(&file).unwrap().as_slice()),
        (0o600, &b"bundle"[..])
    );
    assert_eq!(names(directory.path()), ["bundle.tar.gz", "other"]);
}

#[test]
fn nothing_is_left_of_a_bundle_that_fails() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bundle.tar.gz");
    let (unfinished, _file) = Unfinished::create(&file, false).unwrap();
    assert_eq!(names(directory.path()), ["bundle.tar.gz.part"]);
    let second = Unfinished::create(&file, true).unwrap_err();
    assert!(second.to_string().contains("bundle.tar.gz.part"), "{second}");
    drop(unfinished);
    assert!(names(directory.path()).is_empty());
    let nowhere = directory.path().join("none/x.tar.gz");
    assert!(
        matches!(Unfinished::create(&nowhere, false), Err(Failure::File { path, .. }) if path == nowhere)
    );
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
