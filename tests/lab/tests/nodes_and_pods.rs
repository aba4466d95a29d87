//! Pods can be made, reach each other and their Services, and go.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lab::{Lab, Qos, programs};
use serde_json::Value;

fn two_nodes() -> lab::LabBuilder {
    Lab::builder().node("a").node("b").systemd_cgroups().without_mesh()
}

#[test]
fn curl_reaches_nginx_on_both_nodes_by_every_address() {
    if !lab::ready("curl_reaches_nginx_on_both_nodes_by_every_address") {
        return;
    }
    two_nodes().run(|lab| {
        let client = lab.pod("shop/client").node("a").start()?;
        let near = lab.pod("shop/near").node("a").label("app", "web").start()?;
        let far = lab.pod("shop/far").node("b").label("app", "web").qos(Qos::BestEffort).start()?;
        let _near = programs::nginx(&near).port(8080).file("name", "near").start()?;
        let _far = programs::nginx(&far).port(8080).file("name", "far").start()?;
        let web = lab.service("shop/web").port(80, 8080).select("app", "web").create()?;

        let get = |pod: &lab::Pod, url: String| -> anyhow::Result<String> {
            Ok(pod.exec(["curl", "-sS", "--fail", "--max-time", "5", &url])?.ok()?.text())
        };
        for (pod, name) in [(&near, "near"), (&far, "far")] {
            assert_eq!(get(&client, format!("http://{}:8080/name", pod.v4()))?, name);
            assert_eq!(get(&client, format!("http://[{}]:8080/name", pod.v6()))?, name);
            let seen = get(&client, format!("http://{}:8080/whoami", pod.v4()))?;
            assert_eq!(seen.trim(), client.v4().to_string(), "source addresses are kept");
        }
        // By the Service's address, both endpoints answer, and a pod reaches itself.
        for host in [web.v4().to_string(), format!("[{}]", web.v6())] {
            for pod in [&client, &near, &far] {
                let mut names = std::collections::BTreeSet::new();
                lab::eventually(Duration::from_secs(10), || {
                    names.insert(get(pod, format!("http://{host}/name")).map_err(|e| format!("{e:#}"))?);
                    if names.len() == 2 { Ok(()) } else { Err(format!("{} only sees {names:?}", pod.key())) }
                })?;
            }
        }
        // An endpoint that is not ready is none; without any the port is refused.
        near.set_ready(false)?;
        for _ in 0..8 {
            assert_eq!(get(&client, format!("http://{}/name", web.v4()))?, "far");
        }
        far.set_ready(false)?;
        for to in [format!("{}:80", web.v4()), format!("[{}]:80", web.v6()), format!("{}:81", web.v4())] {
            let report: Value = client.exec(["weft-lab-peer", "connect-once", &to])?.ok()?.json()?;
            assert_eq!(report["errno"], "ECONNREFUSED", "{to}: {report}");
        }
        Ok(())
    });
}

#[test]
fn kubelets_directories_are_there_in_both_layouts() {
    if !lab::ready("kubelets_directories_are_there_in_both_layouts") {
        return;
    }
    two_nodes().run(|lab| {
        let one = lab.pod("shop/one").node("a").start()?;
        let other = lab.pod("shop/other").node("b").qos(Qos::BestEffort).start()?;
        let root = |node: &str| lab.node(node).cgroup().path().display().to_string();
        let (uid, uid_) = (one.uid(), other.uid().replace('-', "_"));
        let path = one.cgroup().path().display().to_string();
        assert_eq!(path, format!("{}/kubepods/burstable/pod{uid}", root("a")));
        let path = other.cgroup().path().display().to_string();
        let slices = "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod";
        assert_eq!(path, format!("{}/{slices}{uid_}.slice", root("b")));
        assert!(lab.node("a").pod_logs().join(format!("shop_one_{uid}")).is_dir());
        // A program is in its pod's cgroup and namespace, and one in the namespace alone is not in its cgroup.
        let own = one.exec(["cat", "/proc/self/cgroup"])?.ok()?.text();
        assert!(own.contains(&format!("/kubepods/burstable/pod{uid}/")), "{own}");
        let outside = one.run_in_namespace_only(["cat", "/proc/self/cgroup"])?.run()?.ok()?.text();
        assert!(!outside.contains("kubepods") && outside.contains("/a/system.slice"), "{outside}");
        let listed = std::process::Command::new("ip").args(["netns", "list"]).output()?;
        assert!(String::from_utf8_lossy(&listed.stdout).contains(one.netns()));
        // A deleted pod leaves nothing.
        one.delete()?;
        assert!(!one.cgroup().path().exists() && !one.netns_path().exists());
        assert!(!lab.place().objects().join("pod-shop-one.yaml").exists());
        Ok(())
    });
}

#[test]
fn a_test_can_hold_sockets_that_are_the_pods() {
    if !lab::ready("a_test_can_hold_sockets_that_are_the_pods") {
        return;
    }
    two_nodes().run(|lab| {
        let client = lab.pod("shop/client").node("a").start()?;
        let server = lab.pod("shop/server").node("b").start()?;
        let at = SocketAddr::new(server.v6().into(), 7000);
        let listener = server.listen(at)??;
        let mut near = client.connect(at, Duration::from_secs(3))??;
        let (mut far, from) = listener.accept()?;
        assert_eq!(from.ip(), client.v6());
        near.write_all(b"hello")?;
        let mut bytes = [0; 5];
        far.read_exact(&mut bytes)?;
        assert_eq!(&bytes, b"hello");
        // What connect(2) says comes through.
        let nobody = SocketAddr::new(server.v4().into(), 7001);
        let error = client.connect(nobody, Duration::from_secs(3))?.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        let unrouted: SocketAddr = "172.30.0.77:1".parse()?;
        let start = Instant::now();
        let error = client.connect(unrouted, Duration::from_millis(200))?.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(2), "{error}");
        Ok(())
    });
}

#[test]
fn a_program_can_be_the_first_process_of_its_pod() {
    if !lab::ready("a_program_can_be_the_first_process_of_its_pod") {
        return;
    }
    two_nodes().run(|lab| {
        let server = lab.pod("shop/server").node("b").start()?;
        let _peer = programs::peer(&server, "print-peer", 7000, &[])?;
        let scheduled = lab.pod("shop/first").node("a").schedule()?;
        let object = std::fs::read_to_string(lab.place().objects().join("pod-shop-first.yaml"))?;
        assert!(object.contains("phase: Pending") && !object.contains("podIP"), "{object}");
        let to = format!("{}:7000", server.v4());
        let (pod, process) = scheduled.launch(["weft-lab-peer", "first-instruction", &to, "30"])?;
        let report: Value = process.wait(Duration::from_secs(60))?.ok()?.json()?;
        assert_eq!(report["connected"], true, "{report}");
        assert!(report["read"].as_str().unwrap().contains(&format!("\"peer\":\"{}:", pod.v4())), "{report}");
        let object = std::fs::read_to_string(lab.place().objects().join("pod-shop-first.yaml"))?;
        assert!(object.contains("phase: Running") && object.contains(&pod.v6().to_string()), "{object}");
        Ok(())
    });
}

#[test]
fn three_nodes_are_joined_by_a_bridge() {
    if !lab::ready("three_nodes_are_joined_by_a_bridge") {
        return;
    }
    Lab::builder().node("a").learned_neighbours().node("b").node("c").without_mesh().run(|lab| {
        let pods = ["a", "b", "c"].map(|node| lab.pod(&format!("shop/{node}")).node(node).start());
        let [a, b, c] = pods;
        let pods = [a?, b?, c?];
        let servers: Vec<_> = pods.iter().map(|pod| programs::peer(pod, "echo", 7, &[])).collect();
        for server in servers {
            std::mem::forget(server?);
        }
        for from in &pods {
            for to in pods.iter().flat_map(|pod| pod.addresses()) {
                let report = from.connect(SocketAddr::new(to, 7), Duration::from_secs(3))?;
                assert!(report.is_ok(), "{} to {to}: {report:?}", from.key());
            }
        }
        Ok(())
    });
}

/// By hand: `cargo test --release -p lab -- --ignored a_thousand`.
#[test]
#[ignore = "long: half a minute"]
fn a_thousand_pods_fit_on_two_nodes() {
    two_nodes().run(|lab| {
        let start = Instant::now();
        for number in 0..1000 {
            let node = if number % 2 == 0 { "a" } else { "b" };
            lab.pod(&format!("shop/pod-{number}")).node(node).start()?;
        }
        println!("1,000 pods in {:?}", start.elapsed());
        let pods = lab.pods();
        let last = &pods[pods.len() - 1];
        let _echo = programs::peer(last, "echo", 7, &[])?;
        let start = Instant::now();
        for pod in &pods {
            pod.connect(SocketAddr::new(last.v4().into(), 7), Duration::from_secs(3))??;
            pod.connect(SocketAddr::new(last.v6().into(), 7), Duration::from_secs(3))??;
        }
        println!("2,000 connections in {:?}", start.elapsed());
        Ok(())
    });
}

#[test]
fn two_hundred_pods_come_and_are_reached() {
    if !lab::ready("two_hundred_pods_come_and_are_reached") {
        return;
    }
    two_nodes().run(|lab| {
        let start = Instant::now();
        let mut pods = Vec::new();
        for number in 0..200 {
            let node = if number % 2 == 0 { "a" } else { "b" };
            pods.push(lab.pod(&format!("shop/pod-{number}")).node(node).start()?);
        }
        let each = start.elapsed() / 200;
        lab::row::pass("two_hundred_pods_come_and_are_reached", "time of one pod", &format!("{each:?}"));
        let (first, last) = (&pods[0], &pods[199]);
        let _echo = programs::peer(last, "echo", 7, &[])?;
        first.connect(SocketAddr::new(last.v4().into(), 7), Duration::from_secs(3))??;
        let start = Instant::now();
        for pod in &pods[..20] {
            pod.delete()?;
        }
        println!("deleting a pod takes {:?}", start.elapsed() / 20);
        Ok(())
    });
}
