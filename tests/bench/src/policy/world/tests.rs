use super::*;

fn all(workloads: u32, policies: u32) -> String {
    FullWorld { workloads, policies }.files().map(|(_, text)| text).chain([FullWorld::last()]).collect()
}

#[test]
fn a_world_has_as_many_pods_and_policies_as_it_says() {
    for (workloads, policies) in [(100, 20), (10_000, 1_000), (60_000, 10_000)] {
        let all = all(workloads, policies);
        assert_eq!(all.matches("kind: Pod\nmetadata").count(), workloads as usize);
        assert_eq!(all.matches("kind: AuthorizationPolicy\n").count(), policies as usize);
    }
}

#[test]
fn policies_of_one_namespace_have_names_of_their_own() {
    let all = all(100, 1_000);
    let mut names: Vec<&str> = all
        .lines()
        .filter(|line| line.starts_with("metadata: {name: ") && line.contains("generation"))
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 1_000);
}

#[test]
fn half_of_those_about_the_server_admit_the_client() {
    let about: Vec<String> = (0..ABOUT_SERVER).map(about_server).collect();
    let admits = |text: &&String| {
        text.contains("action: ALLOW")
            && text.contains("serviceAccount: {name: default}")
            && text.contains("7001")
    };
    assert_eq!(about.iter().filter(admits).count(), 5);
    assert!(about.iter().all(|text| text.contains("matchLabels: {app: near}")));
    assert!(FullWorld::last().contains("action: DENY"));
}

#[test]
fn files_have_names_of_their_own() {
    let mut names: Vec<String> =
        FullWorld { workloads: 1_000, policies: 1_000 }.files().map(|(name, _)| name).collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!((names.len(), names.contains(&LAST_FILE.to_owned())), (count, false));
}
