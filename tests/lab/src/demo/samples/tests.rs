#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::*;

#[test]
fn every_sample_can_be_read_and_every_service_has_a_pod() {
    let pods = objects(PODS).unwrap();
    assert!(pods.iter().all(|pod| pod.kind == "Pod" && ["a", "b"].contains(&pod.spec.node_name.as_str())));
    for (file, text) in FILES {
        for object in objects(text).unwrap() {
            if object.kind != "Service" {
                continue;
            }
            let spec = service(&object).unwrap();
            let serves = |pod: &&Object| {
                pod.metadata.namespace == spec.namespace
                    && spec.selector.iter().all(|(key, value)| pod.metadata.labels.get(key) == Some(value))
            };
            assert_eq!(pods.iter().filter(serves).count(), 1, "{} of {file}", spec.key());
        }
    }
}

#[test]
fn only_the_shop_has_the_label() {
    let labelled: Vec<_> = FILES
        .iter()
        .flat_map(|(_, text)| objects(text).unwrap())
        .filter(|object| object.metadata.labels.contains_key(crate::lab::CAPTURE_LABEL))
        .map(|object| object.metadata.name)
        .collect();
    assert_eq!(labelled, ["shop"]);
}

#[test]
fn every_account_that_a_pod_names_is_declared() {
    let declared: Vec<_> = FILES
        .iter()
        .flat_map(|(_, text)| objects(text).unwrap())
        .filter(|object| object.kind == "ServiceAccount")
        .map(|object| (object.metadata.namespace, object.metadata.name))
        .collect();
    for pod in objects(PODS).unwrap() {
        if let Some(account) = pod.spec.service_account_name {
            assert!(declared.contains(&(pod.metadata.namespace, account.clone())), "{account}");
        }
    }
}
