#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_file_is_replaced_whole_and_leaves_nothing_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pem");
    fs::write(dir.path().join(".key.pem.new"), "half of a ke").unwrap();
    write_whole(&path, b"first", 0o600).unwrap();
    write_whole(&path, b"second", 0o600).unwrap();
    assert_eq!(read_private(&path).unwrap(), b"second");
    assert_eq!(mode(&path), 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_failed_write_names_the_path_and_keeps_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("no/such/key.pem");
    let error = write_whole(&missing, b"x", 0o600).unwrap_err();
    assert!(error.to_string().contains("no/such/key.pem"), "{error}");
}

#[test]
fn a_private_file_open_to_others_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.key");
    for open in [0o640, 0o604, 0o620] {
        write_whole(&path, b"x", 0o600).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
        let error = read_private(&path).unwrap_err();
        assert!(matches!(error, DiskError::Exposed { mode, .. } if mode == open), "{error:?}");
        assert!(error.to_string().contains("chmod 0600"), "{error}");
    }
}

#[test]
fn a_directory_is_made_closed_and_an_open_one_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let made = dir.path().join("a/b");
    private_dir(&made).unwrap();
    assert_eq!(mode(&made), 0o700);
    private_dir(&made).unwrap();
    fs::set_permissions(&made, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(private_dir(&made), Err(DiskError::Exposed { .. })));
    assert_eq!(mode(&made), 0o755);
}

#[test]
fn a_file_that_cannot_be_a_key_is_not_read_into_memory() {
    assert!(matches!(read(Path::new("/dev/zero")), Err(DiskError::TooLarge { .. })));
}
