use super::*;

#[test]
fn a_test_program_is_recognised_among_cargos_messages() {
    let line = r#"{"reason":"compiler-artifact","package_id":"path+file:///x/tests/ebpf#ebpf-tests@0.1.0",
        "manifest_path":"/x/tests/ebpf/Cargo.toml","target":{"kind":["test"],"name":"layout"},
        "profile":{"test":true},"executable":"/x/target/release/deps/layout-1"}"#;
    let program = parse_artifact(line);
    assert_eq!(program.as_ref().map(|program| program.title.as_str()), Some("ebpf-tests/layout"));
    assert_eq!(program.map(|program| program.directory), Some(PathBuf::from("/x/tests/ebpf")));
}

#[test]
fn a_library_that_is_only_linked_is_no_test_program() {
    let line = r#"{"reason":"compiler-artifact","package_id":"path+file:///x/lab#0.1.0","manifest_path":"/x/lab/Cargo.toml",
        "target":{"kind":["lib"],"name":"lab"},"profile":{"test":false},"executable":null}"#;
    assert_eq!(parse_artifact(line), None);
    assert_eq!(parse_artifact("   Compiling"), None);
}

#[test]
fn a_package_is_named_by_its_directory_or_explicitly() {
    assert_eq!(package_name("path+file:///x/tests/lab#0.1.0").as_deref(), Some("lab"));
    assert_eq!(package_name("path+file:///x/tests/ebpf#ebpf-tests@0.1.0").as_deref(), Some("ebpf-tests"));
}
