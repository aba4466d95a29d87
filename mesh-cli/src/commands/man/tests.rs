#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::*;

#[test]
fn there_is_a_page_for_each_verb_with_its_examples() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Args::command();
    command.build();
    let count = write(&command, &directory.path().join("man1")).unwrap();
    let page = |name: &str| fs::read_to_string(directory.path().join("man1").join(name)).unwrap();
    assert!(page("meshctl.1").contains(".TH meshctl 1"), "{}", page("meshctl.1"));
    let verbs: Vec<String> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    assert!(count > verbs.len() as u64);
    for verb in &verbs {
        let text = page(&format!("meshctl-{verb}.1"));
        assert!(
            text.contains(&format!(".TH meshctl\\-{verb} 1"))
                || text.contains(&format!(".TH meshctl-{verb} 1")),
            "{text}"
        );
    }
    assert!(page("meshctl-policy-show.1").contains("SYNOPSIS"));
    assert!(page("meshctl-logs.1").contains("Examples"));
}
