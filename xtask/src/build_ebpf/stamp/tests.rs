use super::*;

fn of(parts: &[&str]) -> String {
    let mut print = Fingerprint::new();
    parts.iter().for_each(|part| print.add(part.as_bytes()));
    print.finish()
}

#[test]
fn the_same_parts_have_the_same_fingerprint() {
    assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
}

#[test]
fn parts_do_not_run_into_each_other() {
    assert_ne!(of(&["ab", ""]), of(&["a", "b"]));
    assert_ne!(of(&["a"]), of(&["a", ""]));
}
