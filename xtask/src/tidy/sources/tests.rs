use super::*;

fn files(texts: &[(&str, &str)]) -> Files {
    let texts = texts.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    Files { root: "/".into(), texts }
}

#[test]
fn a_file_over_500_lines_is_named() {
    let text = "x\n".repeat(501);
    assert_eq!(long(&files(&[("a.rs", &text), ("b.rs", "x\n"), ("c.md", &text)])), ["a.rs: 501 lines"]);
}

#[test]
fn a_module_without_doc_is_named_but_not_its_tests() {
    let found = undocumented(&files(&[("a.rs", "use x;\n"), ("b.rs", "//! B.\n"), ("b/tests.rs", "")]));
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("a.rs"));
}

#[test]
fn a_long_or_foreign_bpf_name_is_named() {
    let text = "pub mod programs {\n    pub const A: &str = \"mesh_ok\";\n    pub const B: &str = \"mesh_far_too_long\";\n}\n\
                pub mod paths {\n    pub const C: &str = \"weft\";\n}\n";
    assert_eq!(
        bpf_names(&files(&[("mesh-common/src/names.rs", text)])),
        ["mesh-common/src/names.rs: mesh_far_too_long"]
    );
}

#[test]
fn a_path_below_somebodys_directory_is_seen_and_a_part_of_another_path_is_not() {
    let directory = ["/ho", "me/"].concat();
    assert!(names_path(&format!("see {directory}jo/x"), &directory));
    assert!(!names_path(&format!("see /srv{directory}jo/x"), &directory));
    assert!(!names_path(&format!("below {directory} there"), &directory));
}
