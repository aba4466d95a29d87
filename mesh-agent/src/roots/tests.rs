#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::os::unix::fs::symlink;

use mesh_identity::{Authority as _, BuiltinAuthority};
use mesh_model::TrustDomain;

use super::*;

fn root(dir: &Path, name: &str) -> Roots {
    let domain = TrustDomain::new("mesh.test").unwrap();
    BuiltinAuthority::open_or_create(&dir.join(name), &domain).unwrap().roots()
}

/// As kubelet writes a ConfigMap: files in a directory, and links to it that are exchanged.
fn mount(dir: &Path, version: &str, pem: &str) {
    fs::create_dir(dir.join(version)).unwrap();
    fs::write(dir.join(version).join("root.pem"), pem).unwrap();
    symlink(version, dir.join("..new")).unwrap();
    fs::rename(dir.join("..new"), dir.join("..data")).unwrap();
    let _ = symlink("..data/root.pem", dir.join("root.pem"));
}

#[test]
fn an_exchanged_directory_is_news_once_and_a_broken_file_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (root(dir.path(), "old"), root(dir.path(), "new"));
    let volume = dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    mount(&volume, "..1", &old.to_pem());
    let (file, found) = RootFile::open(&volume.join("root.pem"), dir.path());
    assert_eq!(found, old);
    assert!(file.look().is_none(), "nothing new");

    mount(&volume, "..2", &old.merge(&new).to_pem());
    assert_eq!(file.look().unwrap().unwrap(), old.merge(&new));
    assert!(file.look().is_none(), "news once");

    fs::write(volume.join("..2/root.pem"), "not a root").unwrap();
    file.look().unwrap().unwrap_err();
    assert!(file.look().is_none(), "said once");
    let bundle = file.bundle(&found);
    assert!(bundle.error.unwrap().contains("BEGIN CERTIFICATE"));
    assert_eq!(bundle.roots[0].fingerprint.len(), 64);

    fs::remove_file(volume.join("..2/root.pem")).unwrap();
    file.look().unwrap().unwrap_err();
    assert!(file.look().is_none(), "gone is said once, too");
    mount(&volume, "..3", &new.to_pem());
    assert_eq!(file.look().unwrap().unwrap(), new);
    assert_eq!(file.bundle(&new).error, None);
}

#[test]
fn a_restart_without_the_file_goes_on_with_what_was_kept_and_a_first_start_waits() {
    let dir = tempfile::tempdir().unwrap();
    let old = root(dir.path(), "old");
    let (state, path) = (dir.path().join("state"), dir.path().join("root.pem"));
    fs::create_dir(&state).unwrap();
    let (file, found) = RootFile::open(&path, &state);
    assert_eq!(found, Roots::none());
    assert!(file.bundle(&found).error.unwrap().contains("root.pem"));

    fs::write(&path, old.to_pem()).unwrap();
    assert_eq!(file.look().unwrap().unwrap(), old);
    file.keep();
    fs::remove_file(&path).unwrap();
    let (file, found) = RootFile::open(&path, &state);
    assert_eq!(found, old);
    assert!(file.bundle(&found).error.is_some(), "and says so");
}
