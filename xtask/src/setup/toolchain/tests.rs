use super::*;

#[test]
fn version_and_llvm_are_read_from_a_distributions_compiler() {
    let identity = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
                    release: 1.96.0\nLLVM version: 22.1.8\n";
    assert_eq!(parse_identity(identity), Some(((1, 96), 22)));
}

#[test]
fn version_and_llvm_are_read_from_a_nightly() {
    assert_eq!(
        parse_identity("rustc 1.97.0-nightly\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n"),
        Some(((1, 97), 22))
    );
}

#[test]
fn a_compiler_without_llvm_is_no_candidate() {
    assert_eq!(parse_identity("release: 1.97.0\n"), None);
}
