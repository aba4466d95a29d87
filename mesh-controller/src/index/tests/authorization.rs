//! What `AuthorizationPolicy` objects become: reach, bindings, warnings.

use mesh_model::policy::Mtls;

use super::*;

const PODS: &str = "
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: web, labels: {app: web}}
---
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop, uid: cart, labels: {app: cart}}
---
apiVersion: v1
kind: Pod
metadata: {name: till, namespace: bank, uid: till, labels: {app: web}}
";

fn policy(namespace: &str, name: &str, targets: &str) -> String {
    format!(
        "---\napiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{targetRefs: [{targets}], action: ALLOW, rules: [{{}}]}}\n"
    )
}

fn listed(world: &World, uid: &str) -> Vec<String> {
    let bindings = world.workload(uid).bindings.iter();
    bindings.flat_map(|bindings| &bindings.policies).map(|key| key.to_string()).collect()
}

fn targeted(world: &World, namespace: &str, name: &str) -> Vec<String> {
    let authored = world.index.authored(&PolicyKey::new(namespace, name)).expect("it is there");
    world.index.targeted(authored).iter().map(|pod| pod.name.to_string()).collect()
}

#[test]
fn a_selector_is_listed_by_the_pods_of_its_namespace_that_it_selects() {
    let mut world = World::of(PODS);
    let target = "{kind: Pod, selector: {matchLabels: {app: web}}}";
    assert_eq!(world.set(&policy("shop", "web", target)), 2, "the policy and one workload, in one step");
    assert_eq!(listed(&world, "web"), ["shop/web"]);
    assert!(listed(&world, "cart").is_empty() && listed(&world, "till").is_empty());
    assert_eq!(targeted(&world, "shop", "web"), ["web"]);
    let relabelled = PODS.replace(
        "name: web, namespace: shop, uid: web, labels: {app: web}",
        "name: web, namespace: shop, uid: web, labels: {app: other}",
    );
    world.set(&relabelled);
    assert!(listed(&world, "web").is_empty(), "a pod that loses the label");
    world.set(PODS);
    world.set(&policy("shop", "web", "{kind: Pod, selector: {matchLabels: {app: cart}}}"));
    assert_eq!((listed(&world, "web").len(), listed(&world, "cart").len()), (0, 1), "another target");
    assert_eq!(world.remove(Kind::AuthorizationPolicy, "shop", "web"), 2);
    assert!(listed(&world, "cart").is_empty() && world.policies.is_empty());
}

#[test]
fn the_reach_of_a_namespace_or_the_mesh_touches_no_workload() {
    let mut world = World::of(PODS);
    assert_eq!(world.set(&policy("shop", "all", "{kind: Pod, selector: {}}")), 1);
    assert_eq!(world.set(&policy("weft-system", "all", "{kind: Namespace}")), 1);
    assert_eq!(targeted(&world, "shop", "all"), ["cart", "web"]);
    assert_eq!(targeted(&world, "weft-system", "all"), ["till", "cart", "web"]);
    assert!(listed(&world, "web").is_empty());
}

#[test]
fn a_selector_of_the_release_namespace_selects_everywhere() {
    let mut world = World::of(PODS);
    world.set(&policy("weft-system", "web", "{kind: Pod, selector: {matchLabels: {app: web}}}"));
    assert_eq!((listed(&world, "web").len(), listed(&world, "till").len()), (1, 1));
    assert_eq!(targeted(&world, "weft-system", "web"), ["till", "web"]);
}

#[test]
fn a_service_target_is_the_pods_that_it_selects_now() {
    let mut world = World::of(PODS);
    world.set(&policy("shop", "front", "{kind: Service, name: front}"));
    assert!(listed(&world, "web").is_empty(), "no such Service yet");
    let service = |app: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: front, namespace: shop}}\nspec: {{clusterIP: 10.96.0.1, selector: {{app: {app}}}, ports: [{{port: 80}}]}}\n"
        )
    };
    world.set(&service("web"));
    assert_eq!(listed(&world, "web"), ["shop/front"]);
    world.set(&service("cart"));
    assert_eq!((listed(&world, "web").len(), listed(&world, "cart").len()), (0, 1));
    assert_eq!(targeted(&world, "shop", "front"), ["cart"]);
    world.remove(Kind::Service, "shop", "front");
    assert!(listed(&world, "cart").is_empty());
    let bare = "apiVersion: v1\nkind: Service\nmetadata: {name: front, namespace: shop}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n";
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: front-1, namespace: shop, labels: {kubernetes.io/service-name: front}}\naddressType: IPv4\nports: [{port: 80}]\nendpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: web, namespace: shop}}]\n";
    world.set(&format!("{bare}{slice}"));
    assert_eq!(listed(&world, "web"), ["shop/front"], "without a selector its slices name the pods");
}

#[test]
fn what_is_said_of_plaintext_is_listed_port_by_port_in_its_order() {
    let mut world = World::of(PODS);
    let config = "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {mtls: Strict, mtlsOverrides: [{namespaces: [shop], podSelector: {matchLabels: {app: web}}, ports: [9090, 9100-9200], mtls: Permissive}, {namespaces: [bank], mtls: Permissive}]}\n";
    assert_eq!(world.set(config), 3, "the settings, and the two pods of which something is said");
    let said = |uid: &str| {
        let bindings = world.workload(uid).bindings.iter();
        bindings
            .flat_map(|bindings| bindings.mtls.clone())
            .map(|port| (port.ports, port.mtls))
            .collect::<Vec<_>>()
    };
    assert_eq!(said("web"), [(9090..=9090, Mtls::Permissive), (9100..=9200, Mtls::Permissive)]);
    assert_eq!(said("till"), [(1..=65535, Mtls::Permissive)]);
    assert!(said("cart").is_empty());
    assert_eq!(world.remove(Kind::MeshConfig, "", "default"), 3);
    assert!(world.workload("web").bindings.is_none());
}
