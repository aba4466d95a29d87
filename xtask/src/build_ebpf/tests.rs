#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

#[test]
fn an_object_is_replaced_only_when_it_changed() {
    let directory = tempfile::tempdir().unwrap();
    let built = directory.path().join("built");
    let object = directory.path().join("ebpf/mesh.bpf.o");
    fs::write(&built, "one").unwrap();
    assert!(publish(&built, &object).unwrap());
    let first = object.metadata().unwrap().modified().unwrap();
    assert!(!publish(&built, &object).unwrap());
    assert_eq!(object.metadata().unwrap().modified().unwrap(), first);
    fs::write(&built, "two").unwrap();
    assert!(publish(&built, &object).unwrap());
    assert_eq!(fs::read_to_string(&object).unwrap(), "two");
}
