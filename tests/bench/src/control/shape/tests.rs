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

#[test]
fn services_and_pods_go_by_the_names_that_are_told() {
    let shape = Shape::of(1_001);
    let all: String = shape.files().map(|(_, text)| text).collect();
    assert_eq!(shape.services(), 100);
    for number in [0, 24, 25, 99] {
        let (namespace, name) = Shape::service(number);
        assert!(all.contains(&format!("metadata: {{name: {name}, namespace: {namespace}}}")), "{number}");
    }
    let (namespace, name) = Shape::first_pod();
    assert!(all.contains(&format!("  name: {name}\n  namespace: {namespace}\n")));
    assert_eq!(Shape::nodes().filter(|node| all.contains(&format!("nodeName: {node}\n"))).count(), 20);
}
