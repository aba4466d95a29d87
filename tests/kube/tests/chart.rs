//! The charts, as Helm renders them: with default values and with others, refused where a value is unknown, and no more
//! privileges than are documented. Nothing is installed but definitions; what the API server thinks is asked with a dry run.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Result, bail, ensure};
use kube_tests::{ApiServer, tools};
use lab::row::Table;
use mesh_crd::MeshConfig;
use serde_json::{Value, json};

const CHART: &str = "deploy/charts/mesh";

/// Values that set as much as can be set.
const MANY: &[&str] = &[
    "image.registry=registry.example:5000",
    "image.tag=t1",
    "image.pullPolicy=Always",
    "image.pullSecrets[0].name=login",
    "meshConfig.trustDomain=mesh.example",
    "meshConfig.excludedCIDRs={10.0.0.0/8,fd00::/8}",
    "meshConfig.excludedPorts={22,9000-9010}",
    "meshConfig.bootstrapNamespaces={kube-system,weft-system,dns}",
    "meshConfig.unknownPods=allow",
    "meshConfig.preCaptureSockets=keep",
    "meshConfig.keyCache=disk",
    "meshConfig.mtls=Strict",
    "meshConfig.mtlsOverrides[0].ports={9090,9100-9200},meshConfig.mtlsOverrides[0].mtls=Permissive",
    "meshConfig.sameNode=tunnel",
    "meshConfig.kubeletPort=10250",
    "meshConfig.certificateLifetime=1h30m",
    "meshConfig.logFormat=json",
    "agent.maxUnavailable=10%",
    "agent.nodeSelector.mesh=yes",
    "agent.podAnnotations.note=one",
    "agent.podLabels.team=net",
    "agent.resources.limits.memory=1Gi",
    "controller.replicas=3",
    "controller.nodeSelector.role=infra",
    "controller.tolerations[0].key=infra",
    "controller.tolerations[0].operator=Exists",
    "controller.podDisruptionBudget.maxUnavailable=50%",
    "controller.caSecret=our-ca",
    "listen=[::]",
    "podMonitor.labels.release=prometheus",
    "prometheusRule.labels.release=prometheus",
    "dashboards.enabled=true",
    "dashboards.namespace=weft-system",
    "dashboards.annotations.grafana_folder=Weft",
    "uninstall.timeout=5m",
    "priorityClassQuota.enabled=true",
];

/// Runs Helm without a cluster: what it printed, or what it complained of.
fn helm(arguments: &[&str]) -> Result<String, String> {
    let directory = tempfile::tempdir().unwrap();
    let mut helm = Command::new(tools::helm().unwrap());
    helm.args(arguments)
        .current_dir(tools::workspace())
        .env_remove("KUBECONFIG")
        .env_remove("HELM_NAMESPACE");
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        helm.env(name, directory.path());
    }
    let output = helm.output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn text_of(namespace: &str, values: &[&str]) -> Result<String, String> {
    let mut arguments = vec!["template", "weft", CHART, "--namespace", namespace];
    for value in values {
        arguments.extend(["--set", *value]);
    }
    helm(&arguments)
}

/// The objects of a rendering.
fn render(values: &[&str]) -> Vec<Value> {
    let text = text_of("weft-system", values).unwrap();
    let all: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    all.into_iter().filter(Value::is_object).collect()
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// Every pod of the rendering: whose it is, and its spec.
fn pods(objects: &[Value]) -> Vec<(String, &Value)> {
    let spec = |object: &'_ Value| match object["kind"].as_str() {
        Some("Pod") => Some("/spec"),
        Some("DaemonSet" | "Deployment" | "Job") => Some("/spec/template/spec"),
        _ => None,
    };
    let named =
        |object: &Value| format!("{} {}", object["kind"], object["metadata"]["name"]).replace('"', "");
    objects.iter().filter_map(|object| Some((named(object), object.pointer(spec(object)?)?))).collect()
}

fn words(list: &Value) -> BTreeSet<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn charts_render_and_lint_with_many_values() {
    let mut table = Table::new("charts_render_and_lint_with_many_values");
    for chart in ["deploy/charts/mesh-crds", CHART] {
        table.row(&format!("{chart} lints"), || {
            helm(&["lint", "--strict", chart]).map_err(anyhow::Error::msg)
        });
    }
    let singles = MANY.iter().map(|value| (*value, vec![*value]));
    let more = [
        ("default values", vec![]),
        ("all of them", MANY.to_vec()),
        ("pod monitors", vec!["podMonitor.enabled=true"]),
        ("rules", vec!["prometheusRule.enabled=true"]),
        ("rules under Istio's names", vec!["prometheusRule.enabled=true", "prometheusRule.istio=true"]),
        ("no hook", vec!["uninstall.enabled=false"]),
        ("no budget", vec!["controller.podDisruptionBudget.enabled=false"]),
    ];
    for (name, values) in more.into_iter().chain(singles) {
        table.row(name, || {
            let objects = render(&values);
            ensure!(
                objects.iter().all(|object| object["apiVersion"].is_string()),
                "an object without a version"
            );
            Ok(format!("{} objects", objects.len()))
        });
    }
    table.finish();
}

#[test]
fn a_value_that_is_not_known_is_refused_by_its_name() {
    let mut table = Table::new("a_value_that_is_not_known_is_refused_by_its_name");
    for (value, place, words) in [
        ("agnet.image=x", "at ''", "'agnet' not allowed"),
        ("agent.imagge=x", "at '/agent'", "'imagge' not allowed"),
        ("meshConfig.trustDoman=x", "at '/meshConfig'", "'trustDoman' not allowed"),
        ("meshConfig.unknownPods=ignore", "at '/meshConfig/unknownPods'", "'refuse', 'allow'"),
        (
            "meshConfig.certificateLifetime=soon",
            "at '/meshConfig/certificateLifetime'",
            "does not match pattern",
        ),
        ("meshConfig.excludedPorts={0}", "at '/meshConfig/excludedPorts/0'", "want 1"),
        ("controller.replicas=0", "at '/controller/replicas'", "want 1"),
        ("controller.replicas=two", "at '/controller/replicas'", "want integer"),
        ("agent.image.digest=sha256:1", "at '/agent/image/digest'", "does not match pattern"),
        ("agent.hostPaths.run=run", "at '/agent/hostPaths/run'", "does not match pattern"),
        ("dashboards.label=x", "at '/dashboards'", "'label' not allowed"),
        ("prometheusRule.runbooks=a#b", "at '/prometheusRule/runbooks'", "does not match pattern"),
        ("uninstall.timeout=forever", "at '/uninstall/timeout'", "does not match pattern"),
    ] {
        table.row(value, || match text_of("weft-system", &[value]) {
            Ok(_) => bail!("rendered"),
            Err(said) if said.contains(place) && said.contains(words) => Ok(String::new()),
            Err(said) => bail!("does not say {place:?} and {words:?}: {said}"),
        });
    }
    table.finish();
}

#[test]
fn pods_have_the_privileges_that_are_documented_and_no_other() {
    let objects = render(&[]);
    let mut table = Table::new("pods_have_the_privileges_that_are_documented_and_no_other");
    for (name, pod) in pods(&objects) {
        let agent = name == "DaemonSet weft-agent";
        let serves = agent || name == "Deployment weft-controller";
        table.row(&name, || {
            ensure!(pod["hostNetwork"] != true && pod["hostIPC"] != true, "in the host's network or IPC");
            ensure!((pod["hostPID"] == true) == agent, "hostPID");
            ensure!(pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", "seccomp");
            ensure!(serves || pod["restartPolicy"] == "Never", "restarts");
            ensure!(
                !serves
                    || pod["priorityClassName"].as_str().is_some_and(|class| class.starts_with("system-")),
                "priority"
            );
            let talks = ["Deployment weft-controller", "Job weft-uninstall"].contains(&name.as_str());
            ensure!(pod["automountServiceAccountToken"] == talks, "the API server's token");
            for container in pod["containers"].as_array().unwrap() {
                let security = &container["securityContext"];
                ensure!(security["privileged"] == false, "privileged");
                ensure!(security["readOnlyRootFilesystem"] == true, "a root file system that can be written");
                ensure!(
                    words(&security["capabilities"]["drop"]) == BTreeSet::from(["ALL"]),
                    "does not drop ALL"
                );
                let adds = words(&security["capabilities"]["add"]);
                let four = BTreeSet::from(["BPF", "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"]);
                ensure!(adds == if agent { four } else { BTreeSet::new() }, "capabilities {adds:?}");
                ensure!(agent || security["allowPrivilegeEscalation"] == false, "privilege escalation");
                ensure!(agent || pod["securityContext"]["runAsNonRoot"] == true, "user 0");
                for resource in ["cpu", "memory"] {
                    ensure!(
                        container["resources"]["requests"][resource].is_string(),
                        "no request of {resource}"
                    );
                }
                for probe in ["livenessProbe", "readinessProbe"] {
                    ensure!(!serves || container[probe].is_object(), "no {probe}");
                }
            }
            Ok(String::new())
        });
    }
    let agent = &find(&objects, "DaemonSet", "weft-agent")["spec"]["template"]["spec"];
    table.row("the agent's mounts", || {
        let container = &agent["containers"][0];
        ensure!(container["securityContext"]["appArmorProfile"]["type"] == "Unconfined", "AppArmor");
        ensure!(container["securityContext"]["seLinuxOptions"]["type"] == "spc_t", "SELinux");
        let mounts = container["volumeMounts"].as_array().unwrap();
        let mount =
            |path: &str| mounts.iter().find(|mount| mount["mountPath"] == path).cloned().unwrap_or_default();
        ensure!(mount("/sys/fs/bpf")["mountPropagation"] == "HostToContainer", "bpffs");
        for path in ["/sys/fs/cgroup", "/var/log/pods", "/etc/weft/roots", "/var/run/secrets/weft"] {
            ensure!(mount(path)["readOnly"] == true, "{path} can be written");
        }
        let volumes = agent["volumes"].as_array().unwrap();
        let paths: BTreeSet<_> =
            volumes.iter().filter_map(|volume| volume["hostPath"]["path"].as_str()).collect();
        let wanted = ["/run/weft", "/sys/fs/bpf", "/sys/fs/cgroup", "/var/lib/weft", "/var/log/pods"];
        ensure!(paths == BTreeSet::from(wanted), "{paths:?}");
        ensure!(agent["tolerations"] == json!([{"operator": "Exists"}]), "tolerations");
        Ok(String::new())
    });
    table.finish();
}

#[test]
fn roles_are_as_narrow_as_they_look() {
    let objects = render(MANY);
    let mut table = Table::new("roles_are_as_narrow_as_they_look");
    for object in objects.iter().filter(|object| object["rules"].is_array()) {
        let name = format!("{} {}", object["kind"], object["metadata"]["name"]).replace('"', "");
        table.row(&name, || {
            for rule in object["rules"].as_array().unwrap() {
                for part in ["apiGroups", "resources", "verbs"] {
                    ensure!(!words(&rule[part]).is_empty(), "no {part}: {rule}");
                    ensure!(words(&rule[part]).iter().all(|word| !word.contains('*')), "a wildcard: {rule}");
                }
                let secrets = words(&rule["resources"]).contains("secrets");
                ensure!(!secrets || object["kind"] == "Role", "Secrets outside of a Role");
                ensure!(
                    !secrets
                        || words(&rule["verbs"]) == BTreeSet::from(["create"])
                        || rule["resourceNames"] == json!(["our-ca"]),
                    "Secrets by no name: {rule}"
                );
                let writes = words(&rule["verbs"])
                    .intersection(&BTreeSet::from(["update", "patch", "delete"]))
                    .count()
                    > 0;
                let others = words(&rule["resources"])
                    .intersection(&BTreeSet::from(["pods", "services", "nodes", "namespaces"]))
                    .count()
                    > 0;
                ensure!(!(writes && others), "writes what is not Weft's: {rule}");
            }
            Ok(String::new())
        });
    }
    table.row("the agent's account has none", || {
        let bound = |object: &&Value| {
            let subjects = object["subjects"].as_array().cloned().unwrap_or_default();
            subjects.iter().any(|subject| subject["name"] == "weft-agent")
        };
        match objects.iter().find(bound) {
            Some(object) => bail!("{object}"),
            None => Ok(String::new()),
        }
    });
    table.finish();
}

#[test]
fn images_are_what_the_values_say() {
    let images = |values: &[&str]| -> BTreeSet<String> {
        let objects = render(values);
        let all = pods(&objects)
            .into_iter()
            .flat_map(|(_, pod)| pod["containers"].as_array().cloned().unwrap_or_default());
        all.filter_map(|container| container["image"].as_str().map(str::to_owned)).collect()
    };
    let version = env!("CARGO_PKG_VERSION");
    let ours = ["agent", "controller"].map(|end| format!("localhost/weft/mesh-{end}:{version}"));
    assert_eq!(images(&[]), BTreeSet::from(ours));
    let theirs = ["agent", "controller"].map(|end| format!("registry.example:5000/weft/mesh-{end}:t1"));
    assert_eq!(images(MANY), BTreeSet::from(theirs));
    let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
    let pinned = images(&[format!("agent.image.digest={digest}").as_str(), "image.registry="]);
    assert!(pinned.contains(&format!("weft/mesh-agent@{digest}")), "{pinned:?}");
}

#[test]
fn dashboards_and_rules_are_handed_on_as_they_are() {
    let runbooks = "https://runbooks.example/weft";
    let set = format!("prometheusRule.runbooks={runbooks}");
    let values =
        ["dashboards.enabled=true", "prometheusRule.enabled=true", "prometheusRule.istio=true", &set];
    let objects = render(&values);
    let read = |path: &str| std::fs::read_to_string(tools::workspace().join("deploy").join(path)).unwrap();
    for name in ["agents", "control-plane", "mesh", "namespace", "workload"] {
        let map = find(&objects, "ConfigMap", &format!("weft-dashboard-{name}"));
        assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
        assert_eq!(
            map["data"][format!("weft-{name}.json")],
            read(&format!("dashboards/{name}.json")),
            "{name}"
        );
    }
    for name in ["recording", "alerting", "istio"] {
        let text = read(&format!("rules/{name}.yaml")).replace("docs/runbooks.md#", &format!("{runbooks}#"));
        let rules: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(find(&objects, "PrometheusRule", &format!("weft-{name}"))["spec"], rules, "{name}");
    }
}

#[test]
fn another_namespace_is_named_everywhere() {
    let text = text_of("mesh", &[]).unwrap();
    let left: Vec<_> = text.lines().filter(|line| line.contains("weft-system")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(text.contains("weft-controller.mesh.svc:15010"));
}

#[test]
fn the_values_schema_and_the_definition_know_the_same_settings() {
    let path = tools::workspace().join(CHART).join("values.schema.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let crds = mesh_crd::crds::all().unwrap();
    let crd = crds.iter().find(|crd| crd.spec.names.kind == "MeshConfig").unwrap();
    let crd = serde_json::to_value(crd).unwrap();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    assert_eq!(keys(&schema["properties"]["meshConfig"]["properties"]), keys(spec));
    let made = find(&render(MANY), "MeshConfig", "default").clone();
    assert_eq!(keys(&made["spec"]), keys(spec), "a value that the chart does not hand on");
    let config: MeshConfig = serde_json::from_value(made).unwrap();
    config.settings().unwrap();
}

#[test]
fn the_api_server_takes_all_of_it() {
    let server = ApiServer::start().unwrap();
    server.kubectl(&["create", "namespace", "weft-system"]).unwrap();
    server.helm(&["install", "weft-crds", "deploy/charts/mesh-crds", "--namespace", "weft-system"]).unwrap();
    let mut table = Table::new("the_api_server_takes_all_of_it");
    // The suite's own API server has no ResourceQuota.
    let many: Vec<&str> = MANY.iter().copied().filter(|value| !value.contains("Quota")).collect();
    for (name, values) in [("default values", &[][..]), ("many values", &many[..])] {
        let path = server.directory().join("rendered.yaml");
        std::fs::write(&path, text_of("weft-system", values).unwrap()).unwrap();
        let path = path.to_str().unwrap();
        table.row(name, || {
            // The definitions may be a moment from being served.
            let said = lab::eventually(std::time::Duration::from_secs(60), || {
                let arguments = ["create", "--dry-run=server", "--validate=strict", "--filename", path];
                server.kubectl(&arguments).map_err(|error| format!("{error:#}"))
            })?;
            ensure!(said.contains("meshconfig.weft.dev/default created"), "{said}");
            Ok(format!("{} objects", said.lines().count()))
        });
    }
    table.finish();
}

#[test]
fn a_cluster_without_the_definitions_says_what_is_missing() {
    let server = ApiServer::start().unwrap();
    if !server.is_ours() {
        return lab::row::skip(
            "a_cluster_without_the_definitions_says_what_is_missing",
            "all",
            "somebody's cluster",
        );
    }
    let said = server.helm(&["install", "weft", CHART, "--namespace", "default"]).unwrap_err();
    let said = format!("{said:#}");
    assert!(said.contains("MeshConfig") && said.contains("CRDs"), "{said}");
}
