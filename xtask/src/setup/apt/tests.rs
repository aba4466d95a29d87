#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

#[test]
fn newest_versioned_compilers_come_after_the_browsers_and_before_the_plain_one() {
    let sets = candidate_sets("rustc\nrustc-1.83\nrustc-1.91\nrustc-web\nrustc-1.9-doc\n");
    let first: Vec<&str> = sets.iter().map(|set| set[0].as_str()).collect();
    assert_eq!(first, ["rustc-web", "rustc-1.91", "rustc-1.83", "rustc"]);
    assert_eq!(sets[1], ["rustc-1.91", "cargo-1.91", "rust-1.91-src"]);
}

#[test]
fn a_package_without_candidate_is_not_there() {
    assert_eq!(parse_candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"), None);
    assert_eq!(parse_candidate(""), None);
    assert_eq!(parse_candidate("x:\n  Candidate: 1.96.0+dfsg1-1\n").as_deref(), Some("1.96.0+dfsg1-1"));
}

#[test]
fn the_llvm_of_a_package_is_the_library_it_depends_on() {
    assert_eq!(parse_llvm("libstd\n  Depends: libc6\n  Depends: libllvm22\n"), Some(22));
    assert_eq!(parse_llvm("rustc-web\n  Depends: libstd-rust-web-dev\n"), None);
}

#[test]
fn a_policy_is_there_while_packages_are_installed_and_gone_afterwards() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy-rc.d");
    let policy = Policy::forbid(&path).unwrap();
    assert!(crate::paths::is_executable(&path));
    drop(policy);
    assert!(!path.exists());
}

#[test]
fn the_machines_own_policy_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy-rc.d");
    fs::write(&path, "exit 0\n").unwrap();
    drop(Policy::forbid(&path).unwrap());
    assert_eq!(fs::read_to_string(&path).unwrap(), "exit 0\n");
}
