use super::has_example;

#[test]
fn a_plain_block_in_a_doc_comment_is_an_example() {
    assert!(has_example("/// Text\n/// ```\n/// f();\n/// ```\n"));
    assert!(has_example("//! ```no_run\n//! f();\n//! ```\n"));
}

#[test]
fn a_drawing_is_no_example() {
    assert!(!has_example("//! ```text\n//! a -> b\n//! ```\nfn f() {}\n/// ```text\n/// x\n/// ```\n"));
    assert!(!has_example("// ```\n"));
}
