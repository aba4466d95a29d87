#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use k8s_openapi::api::core::v1::Pod;
use mesh_crd::MeshConfig;
use mesh_model::TrustDomain;
use serde_json::json;

use super::kinds::Kind as Watched;
use super::known::{Known, Outcome};
use super::seen::Seen;
use crate::index::Captures;
use crate::index::facts::{Fact, Key, Kind, Reading};
use crate::metrics::Metrics;
use crate::publish::Hub;
use crate::reconcile::Board;
use crate::watch::{FactChange, facts_of};

fn fact(name: &str) -> Fact {
    facts_of(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}")).unwrap().remove(0)
}

fn name(name: &str) -> super::known::Name {
    ("".into(), name.into())
}

fn removed(name: &str) -> Option<FactChange> {
    Some(FactChange::Removed(Key { kind: Kind::Namespace, namespace: "".into(), name: name.into() }))
}

#[test]
fn a_list_made_anew_takes_away_what_it_does_not_name_and_nothing_before_its_end() {
    let mut known = Known::default();
    known.begin();
    for one in ["a", "b", "c"] {
        let outcome = known.set(name(one), Ok(Some(fact(one))));
        assert_eq!(outcome, Outcome { change: Some(FactChange::Set(fact(one))), problem: None });
    }
    assert!(known.end().is_empty());
    // Expired in the middle of a list, and again.
    known.begin();
    known.set(name("a"), Ok(Some(fact("a"))));
    known.begin();
    assert_eq!(known.len(), 3);
    known.set(name("c"), Ok(Some(fact("c"))));
    known.set(name("d"), Ok(Some(fact("d"))));
    let mut gone: Vec<_> = known.end().into_iter().map(|(name, outcome)| (name.1, outcome.change)).collect();
    gone.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(gone, [("a".into(), removed("a")), ("b".into(), removed("b"))]);
    assert_eq!(known.remove(&name("c")).change, removed("c"));
    assert_eq!(known.remove(&name("c")), Outcome::default());
    assert_eq!(known.len(), 1);
}

#[test]
fn a_malformed_state_changes_nothing_until_it_is_good_again_or_gone() {
    let mut known = Known::default();
    known.set(name("a"), Ok(Some(fact("a"))));
    let broken = known.set(name("a"), Err("what".into()));
    assert_eq!(broken, Outcome { change: None, problem: Some(Some("what".into())) });
    let good = known.set(name("a"), Ok(Some(fact("a"))));
    assert_eq!(good.problem, Some(None));
    known.set(name("a"), Err("what".into()));
    assert_eq!(known.remove(&name("a")), Outcome { change: removed("a"), problem: Some(None) });
    // It says nothing any more.
    known.set(name("a"), Ok(Some(fact("a"))));
    assert_eq!(known.set(name("a"), Ok(None)).change, removed("a"));
    assert_eq!(known.remove(&name("a")), Outcome::default());
}

#[test]
fn what_nobody_needs_is_dropped_while_it_is_read_and_what_people_name_is_not() {
    let pod = json!({
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "5",
            "managedFields": [{"manager": "x"}],
            "labels": {"env": "prod", "volumes": "no", "resources": "yes"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "sidecar.istio.io/status": "{}"},
        },
        "spec": {
            "nodeName": "one", "volumes": [{"name": "v"}], "tolerations": [],
            "initContainers": [{"name": "istio-proxy", "restartPolicy": "Always", "env": [{"name": "A"}]}],
            "containers": [{
                "name": "main", "image": "i", "env": [{"name": "A", "value": "B"}], "command": ["x"],
                "ports": [{"name": "http", "containerPort": 80}], "resources": {"limits": {"cpu": "1"}},
            }],
        },
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "containerStatuses": []},
    });
    // As a watch has it: in text, and in a tagged enum that may buffer.
    let seen: Seen = serde_json::from_str(&pod.to_string()).unwrap();
    assert_eq!(seen.meta.resource_version.as_deref(), Some("5"));
    let pod: Pod = serde_json::from_value(seen.value).unwrap();
    assert!(pod.metadata.managed_fields.is_none());
    assert_eq!(pod.metadata.labels.unwrap().len(), 3);
    assert_eq!(
        pod.metadata.annotations.unwrap().into_keys().collect::<Vec<_>>(),
        ["sidecar.istio.io/status"]
    );
    let spec = pod.spec.unwrap();
    assert_eq!((spec.node_name.as_deref(), spec.volumes.is_none()), (Some("one"), true));
    let container = &spec.containers[0];
    assert!(container.env.is_none() && container.command.is_none() && container.resources.is_none());
    assert_eq!(container.ports.as_ref().unwrap()[0].container_port, 80);
    assert_eq!(spec.init_containers.unwrap()[0].restart_policy.as_deref(), Some("Always"));
    assert_eq!(pod.status.unwrap().pod_ips.unwrap()[0].ip, "10.0.0.1");
}

#[test]
fn an_object_that_cannot_be_read_is_no_error_of_its_list() {
    let list = json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "MeshConfigList", "metadata": {"resourceVersion": "9"},
        "items": [
            {"apiVersion": "weft.dev/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "default"}, "spec": {"kubeletPort": "ten"}},
            {"apiVersion": "weft.dev/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "other"}, "spec": {}},
        ],
    });
    let list: kube::core::ObjectList<Seen> = serde_json::from_str(&list.to_string()).unwrap();
    let [broken, good] = list.items.as_slice() else { panic!() };
    assert_eq!(broken.meta.name.as_deref(), Some("default"));
    let domain = TrustDomain::new("cluster.local").unwrap();
    let reading = Reading { trust_domain: domain.clone(), release_namespace: "weft-system".into() };
    let board = Board::new(domain, Hub::new(Captures::default(), Metrics::default()));
    let learn = Watched::of::<MeshConfig>().learn;
    let error = learn(broken.clone(), &reading, &board).unwrap_err();
    assert!(error.contains("ten"), "{error}");
    assert!(
        learn(good.clone(), &reading, &board).unwrap_err().contains("other"),
        "of that name it does not count"
    );
    let event = json!({"type": "ADDED", "object": {"metadata": {"name": "n", "resourceVersion": "1"}}});
    let event: kube::core::WatchEvent<Seen> = serde_json::from_str(&event.to_string()).unwrap();
    assert!(
        matches!(event, kube::core::WatchEvent::Added(Seen { meta, .. }) if meta.name.as_deref() == Some("n"))
    );
}
