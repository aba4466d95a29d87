#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use mesh_model::Phase;

use super::{EndpointState, Fact, PodFact, ServiceFact, SliceFact, Target};
use crate::watch::facts_of;

fn pod(metadata: &str, spec: &str, status: &str) -> Result<PodFact, String> {
    let yaml = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web-1, uid: u1{metadata}}}\n\
         spec: {{containers: [], {spec}}}\nstatus: {{{status}}}\n"
    );
    match facts_of(&yaml)?.pop() {
        Some(Fact::Pod(pod)) => Ok(*pod),
        other => panic!("{other:?}"),
    }
}

fn service(spec: &str) -> Result<Option<ServiceFact>, String> {
    let yaml = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{{spec}}}\n");
    Ok(facts_of(&yaml)?.pop().map(|fact| match fact {
        Fact::Service(service) => service,
        other => panic!("{other:?}"),
    }))
}

fn slice(labels: &str, rest: &str) -> Option<SliceFact> {
    let yaml = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s, labels: {{{labels}}}}}\n{rest}\n"
    );
    facts_of(&yaml).unwrap().pop().map(|fact| match fact {
        Fact::Slice(slice) => slice,
        other => panic!("{other:?}"),
    })
}

#[test]
fn what_a_pod_does_not_say_is_kubernetes_default() {
    let pod = pod("", "", "").unwrap();
    assert_eq!(&*pod.namespace, "default");
    assert_eq!(pod.identity.to_string(), "spiffe://cluster.local/ns/default/sa/default");
    assert_eq!(&*pod.node, "");
    assert_eq!(pod.phase, Phase::Pending);
    assert!(!pod.host_network && !pod.foreign && !pod.ready);
    assert_eq!(pod.capture, None);
}

#[test]
fn a_pods_uid_is_the_one_its_cgroup_carries() {
    assert_eq!(pod("", "", "").unwrap().uid.as_str(), "u1");
    let annotated = ", annotations: {kubernetes.io/config.hash: 9f86d081}";
    assert_eq!(pod(annotated, "", "").unwrap().uid.as_str(), "9f86d081", "a static pod");
}

#[test]
fn a_pods_phase_follows_its_status_and_its_deletion() {
    let deleted = ", deletionTimestamp: \"2026-01-01T00:00:00Z\"";
    for (metadata, phase, wanted) in [
        ("", "Pending", Phase::Pending),
        ("", "Running", Phase::Running),
        ("", "Unknown", Phase::Running),
        ("", "Succeeded", Phase::Finished),
        ("", "Failed", Phase::Finished),
        (deleted, "Pending", Phase::Terminating),
        (deleted, "Running", Phase::Terminating),
        (deleted, "Failed", Phase::Finished),
    ] {
        let pod = pod(metadata, "", &format!("phase: {phase}")).unwrap();
        assert_eq!(pod.phase, wanted, "{phase}{metadata}");
    }
}

#[test]
fn a_pod_is_ready_by_its_condition_or_where_it_has_none_by_running() {
    for (status, ready) in [
        ("phase: Running", true),
        ("phase: Running, conditions: []", true),
        ("phase: Pending", false),
        ("phase: Running, conditions: [{type: Ready, status: 'True'}]", true),
        ("phase: Running, conditions: [{type: Ready, status: 'False'}]", false),
        ("phase: Running, conditions: [{type: Initialized, status: 'True'}]", false),
    ] {
        assert_eq!(pod("", "", status).unwrap().ready, ready, "{status}");
    }
}

#[test]
fn a_pods_addresses_are_gathered_from_both_fields_each_once() {
    let both = "podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}, {ip: '::ffff:10.0.0.2'}]";
    let addresses: Vec<_> = pod("", "", both).unwrap().addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.1", "fd00::1", "10.0.0.2"], "the first one first");
    assert!(pod("", "", "podIP: ''").unwrap().addresses.is_empty());
}

#[test]
fn a_pods_owner_is_what_it_is_one_replica_of() {
    let owned = |kind: &str, name: &str, controller: bool| {
        format!(
            ", labels: {{pod-template-hash: 7d9c, app: shop}}, \
             ownerReferences: [{{apiVersion: apps/v1, kind: {kind}, name: {name}, uid: x, controller: {controller}}}]"
        )
    };
    for (metadata, wanted) in [
        (owned("ReplicaSet", "web-7d9c", true), "web"),
        (owned("ReplicaSet", "web-other", true), "web-other"),
        (owned("ReplicaSet", "-7d9c", true), "-7d9c"),
        (owned("StatefulSet", "db", true), "db"),
        (owned("Job", "backup-7d9c", true), "backup-7d9c"),
        (owned("ReplicaSet", "web-7d9c", false), "shop"),
        (", labels: {app: shop, app.kubernetes.io/name: store}".into(), "store"),
        (", labels: {app: ''}".into(), "web-1"),
        (String::new(), "web-1"),
    ] {
        assert_eq!(&*pod(&metadata, "", "").unwrap().owner, wanted, "{metadata}");
    }
}

#[test]
fn only_named_tcp_ports_of_containers_and_sidecars_count() {
    let spec = "initContainers: [\
          {name: side, restartPolicy: Always, ports: [{name: admin, containerPort: 15000}]},\
          {name: init, ports: [{name: http, containerPort: 1}]}],\
        containers: [\
          {name: a, ports: [{name: http, containerPort: 8080}, {containerPort: 9}]},\
          {name: b, ports: [{name: http, containerPort: 8081}, {name: dns, containerPort: 53, protocol: UDP}]}]";
    let yaml = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p, uid: u}}\nspec: {{{spec}}}\n");
    let Some(Fact::Pod(pod)) = facts_of(&yaml).unwrap().pop() else { panic!() };
    let ports: Vec<_> = pod.ports.iter().map(|(name, port)| (name.as_str(), *port)).collect();
    assert_eq!(ports, [("admin", 15000), ("http", 8080)]);
}

#[test]
fn a_bad_pod_is_refused_by_name_and_field() {
    let cases = [
        (pod(", labels: {weft.dev/capture: 'yes'}", "", ""), "\"enabled\" or \"disabled\""),
        (pod(", annotations: {weft.dev/tunnel: istio}", "", ""), "\"hbone\""),
        (pod(", namespace: Shop", "", ""), "RFC 1123"),
        (pod("", "nodeName: ../one", ""), "spec.nodeName"),
        (pod("", "serviceAccountName: a_b", ""), "identity"),
        (pod("", "", "podIP: 10.0.0.256"), "status.podIP"),
        (pod("", "", "podIPs: [{ip: localhost}]"), "status.podIPs"),
        (pod(", annotations: {kubernetes.io/config.hash: ../../etc}", "", ""), "metadata.uid"),
    ];
    for (result, wanted) in cases {
        let error = result.unwrap_err();
        assert!(error.contains("web-1") && error.contains(wanted), "{wanted}: {error}");
    }
    let error = facts_of("apiVersion: v1\nkind: Pod\nmetadata: {name: lost}\n").unwrap_err();
    assert!(error.contains("Pod lost") && error.contains("metadata.uid is missing"), "{error}");
    let error = facts_of("apiVersion: v1\nkind: Pod\nmetadata: {uid: u}\n").unwrap_err();
    assert!(error.contains("metadata.name is missing"), "{error}");
}

#[test]
fn a_services_addresses_ports_and_targets_are_read() {
    let both = service(
        "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd01::1'], ports: [\
         {name: a, port: 80, targetPort: 8080}, {name: b, port: 81, targetPort: http}, {name: c, port: 82},\
         {name: d, port: 83, targetPort: '8083'}, {name: e, port: 53, protocol: UDP}, {name: f, port: 84, targetPort: 0}]",
    )
    .unwrap()
    .unwrap();
    assert_eq!(both.addresses.len(), 2);
    let ports: Vec<_> = both.ports.iter().map(|port| (port.port, port.target.clone())).collect();
    let wanted = [
        (80, Target::Number(8080)),
        (81, Target::Name("http".into())),
        (82, Target::Number(82)),
        (83, Target::Number(8083)),
        (84, Target::Number(84)),
    ];
    assert_eq!(ports, wanted);

    let headless = service("clusterIP: None, clusterIPs: [None]").unwrap().unwrap();
    assert!(headless.addresses.is_empty());
    assert!(service("type: ExternalName, externalName: example.com").unwrap().is_none());
    for bad in ["clusterIP: nowhere", "ports: [{port: 0}]", "ports: [{port: 80, targetPort: 70000}]"] {
        assert!(service(bad).unwrap_err().contains("Service web"), "{bad}");
    }
}

#[test]
fn a_services_rules_and_outer_addresses_are_read() {
    let read = |spec: &str| service(&format!("clusterIP: 10.96.0.1, {spec}")).unwrap().unwrap();
    assert_eq!(read("sessionAffinity: None").affinity_seconds, 0);
    assert_eq!(read("sessionAffinity: ClientIP").affinity_seconds, 10_800);
    let sticky = "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}";
    assert_eq!(read(sticky).affinity_seconds, 5);
    assert!(read("internalTrafficPolicy: Local").local_only);
    assert!(!read("internalTrafficPolicy: Cluster, externalTrafficPolicy: Local").local_only);
    let words = |fact: &ServiceFact| fact.untouched.iter().map(ToString::to_string).collect::<Vec<_>>();
    let fact = read(
        "externalIPs: [192.0.2.1, 192.0.2.1, 'fd00::1'], loadBalancerSourceRanges: [' 10.0.0.0/8 ', 'fd00::/8'], ports: [\
         {name: a, port: 80, nodePort: 30080}, {name: b, port: 53, protocol: UDP, nodePort: 30053},\
         {name: c, port: 9, protocol: SCTP}]",
    );
    assert_eq!(fact.external_addresses, ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(fact.source_ranges.len(), 2);
    assert_eq!(words(&fact), ["udp/53", "sctp/9", "node-port/30080", "unserved/fd00::1"]);
    let headless = service("clusterIP: None, externalIPs: [192.0.2.1], ports: [{port: 53, protocol: UDP}]");
    let headless = headless.unwrap().unwrap();
    assert!(headless.external_addresses.is_empty() && headless.untouched.is_empty());

    let yaml = "apiVersion: v1\nkind: Service\n\
        metadata: {name: web, labels: {service.kubernetes.io/service-proxy-name: somebody}}\n\
        spec: {clusterIP: 10.96.0.1, type: LoadBalancer}\n\
        status: {loadBalancer: {ingress: [{ip: 198.51.100.1}, {ip: 198.51.100.2, ipMode: VIP}, \
                 {ip: 198.51.100.3, ipMode: Proxy}, {hostname: lb.example.com}, {ip: '2001:db8::1'}]}}\n";
    let Some(Fact::Service(fact)) = facts_of(yaml).unwrap().pop() else { panic!() };
    assert_eq!(fact.load_balancer_addresses.len(), 2);
    assert_eq!(words(&fact), ["proxied/198.51.100.3", "unserved/2001:db8::1"]);
    assert_eq!(fact.other_proxy.as_deref(), Some("somebody"));

    for (bad, field) in [
        ("sessionAffinity: Cookie", "spec.sessionAffinity"),
        (
            "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}",
            "timeoutSeconds",
        ),
        ("externalIPs: [somewhere]", "spec.externalIPs"),
        ("loadBalancerSourceRanges: [10.0.0.0/33]", "spec.loadBalancerSourceRanges"),
        ("ports: [{port: 80, nodePort: 70000}]", "spec.ports.nodePort"),
    ] {
        let error = service(&format!("clusterIP: 10.96.0.1, {bad}")).unwrap_err();
        assert!(error.contains("Service web") && error.contains(field), "{bad}: {error}");
    }
}

#[test]
fn a_slices_endpoints_are_read_as_kube_proxy_does() {
    let rest = "addressType: IPv4\nendpoints:\n\
        - {addresses: [10.0.0.1], targetRef: {kind: Pod, name: web-1}}\n\
        - {addresses: [10.0.0.2], conditions: {ready: true}}\n\
        - {addresses: [10.0.0.3], conditions: {ready: false}}\n\
        - {addresses: [10.0.0.4], conditions: {ready: true, terminating: true}}\n\
        - {addresses: [10.0.0.5], conditions: {ready: false, serving: true, terminating: true}}\n\
        - {addresses: [10.0.0.6], conditions: {ready: false, serving: false, terminating: true}}\n\
        - {addresses: [10.0.0.7, 10.0.0.8], nodeName: one, hints: {forZones: [{name: east}], forNodes: [{name: one}]}}\n\
        - {addresses: []}\n\
        ports: [{name: http, port: 8080}, {name: dns, port: 53, protocol: UDP}, {name: all}]";
    let slice_of_web = slice("kubernetes.io/service-name: web", rest).unwrap();
    let states: Vec<_> = slice_of_web.endpoints.iter().map(|e| (e.address.to_string(), e.state)).collect();
    let wanted = [
        ("10.0.0.1", EndpointState::Ready),
        ("10.0.0.2", EndpointState::Ready),
        ("10.0.0.3", EndpointState::NotReady),
        ("10.0.0.4", EndpointState::Ready),
        ("10.0.0.5", EndpointState::Draining),
        ("10.0.0.6", EndpointState::NotReady),
        ("10.0.0.7", EndpointState::Ready),
    ];
    assert_eq!(states, wanted.map(|(address, state)| (address.to_owned(), state)));
    let last = &slice_of_web.endpoints[6];
    assert_eq!(
        (last.node.as_deref(), &*last.for_zones[0], &*last.for_nodes[0]),
        (Some("one"), "east", "one")
    );
    assert_eq!(&*slice_of_web.endpoints[0].pod.as_ref().unwrap().name, "web-1");
    assert_eq!(slice_of_web.ports.len(), 1);

    assert!(slice("app: web", rest).is_none(), "of no Service");
    let names = "addressType: FQDN\nendpoints: [{addresses: [example.com]}]";
    assert!(slice("kubernetes.io/service-name: web", names).is_none());
}
