use super::*;

fn names(wanted: &[&str]) -> Result<Vec<&'static str>, String> {
    let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    select(&wanted).map(|groups| groups.iter().map(|group| group.name).collect())
}

#[test]
fn no_name_means_all_groups() {
    assert_eq!(names(&[]).map(|all| all.len()), Ok(GROUPS.len()));
}

#[test]
fn groups_run_once_and_in_the_tables_order() {
    assert_eq!(names(&["datapath", "unit", "datapath"]), Ok(vec!["unit", "datapath"]));
}

#[test]
fn an_unknown_group_is_named() {
    assert_eq!(names(&["unit", "no-such"]), Err("no-such".to_owned()));
}

#[test]
fn names_are_lower_case_words_with_hyphens() {
    for group in GROUPS {
        assert!(group.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", group.name);
    }
}
