use super::*;

#[test]
fn a_shape_has_as_many_pods_as_it_says_and_a_tenth_as_many_services() {
    for workloads in [2, 250, 251, 1_000, 10_000] {
        let all: String =
            Shape::of(workloads).files().chain([Shape::changing(0)]).map(|(_, text)| text).collect();
        assert_eq!(all.matches("kind: Pod\n").count(), workloads as usize);
        assert_eq!(all.matches("kind: Service\n").count(), (workloads as usize - 1).div_ceil(10));
    }
}

#[test]
fn every_revision_of_the_changing_pod_has_an_address_of_its_own() {
    let address = |revision| {
        let (_, text) = Shape::changing(revision);
        text.lines().find(|line| line.contains("podIP:")).map(str::to_owned)
    };
    assert_ne!(address(1), address(2));
    assert!(address(300).is_some_and(|line| line.contains("10.200.1.44")));
}
