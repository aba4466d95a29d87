use super::*;

#[test]
fn a_pods_directory_is_known_in_both_layouts() {
    let uid = "0f0c5dbb-1a3c-4ad1-9b57-0d6a4b1d6c11";
    let pod = Directory::Pod(Uid::new(uid));
    assert_eq!(classify(&format!("pod{uid}")), pod);
    assert_eq!(classify(&format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"))), pod);
    assert_eq!(classify(&format!("kubepods-pod{}.slice", uid.replace('-', "_"))), pod);
    assert_eq!(classify(&format!("kubelet-kubepods-besteffort-pod{}.slice", uid.replace('-', "_"))), pod);
    // A static pod's.
    let hash = "6b7a2c9d0e1f4a5b8c7d6e5f4a3b2c1d";
    for name in [
        format!("pod{hash}"),
        format!("kubepods-pod{hash}.slice"),
        format!("kubepods-burstable-pod{hash}.slice"),
        format!("kubelet-kubepods-besteffort-pod{hash}.slice"),
    ] {
        assert_eq!(classify(&name), Directory::Pod(Uid::new(hash)), "{name}");
    }
}

#[test]
fn a_containers_directory_is_no_pod() {
    let id = "b2c1d6b7a2c9d0e1f4a5b8c7d6e5f4a3b2c1d6b7a2c9d0e1f4a5b8c7d6e5f4a3";
    for name in [
        id.to_owned(),
        format!("crio-{id}"),
        format!("crio-conmon-{id}"),
        format!("cri-containerd-{id}.scope"),
        format!("crio-{id}.scope"),
        format!("crio-conmon-{id}.scope"),
        format!("docker-{id}.scope"),
        format!("libpod-{id}.scope"),
        "init".to_owned(),
        "init.scope".to_owned(),
        "container".to_owned(),
    ] {
        assert_eq!(classify(&name), Directory::Other, "{name}");
    }
}

#[test]
fn kubelets_own_directories_are_walked_and_others_are_not() {
    for name in ["kubepods", "kubepods.slice", "kubelet-kubepods.slice"] {
        assert_eq!(classify(name), Directory::Kubepods, "{name}");
    }
    for name in [
        "burstable",
        "besteffort",
        "kubepods-burstable.slice",
        "kubepods-besteffort.slice",
        "kubelet-kubepods-burstable.slice",
    ] {
        assert_eq!(classify(name), Directory::Class, "{name}");
    }
    for name in ["kubelet", "kubelet.slice"] {
        assert_eq!(classify(name), Directory::Above, "{name}");
    }
    for name in ["system.slice", "podman", "user.slice", "machine-libpod_pod_0f0c5dbb1a3c.slice", "pod"] {
        assert_eq!(classify(name), Directory::Other, "{name}");
    }
}

#[test]
fn kubelets_log_directories_name_the_pod() {
    assert_eq!(
        parse_log_directory("kube-system_dns-1_0f0c5dbb"),
        Some(("kube-system".into(), "dns-1".into(), Uid::new("0f0c5dbb")))
    );
    assert_eq!(parse_log_directory("lost+found"), None);
}

#[test]
fn a_processs_start_is_read_whatever_its_name() {
    let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
    for name in ["pause", "a b", "((c)) )"] {
        assert_eq!(start_of(&format!("7 ({name}) {fields}")), Some(4242), "{name}");
    }
    assert_eq!(start_of(""), None);
    assert!(started(std::process::id()) < u64::MAX);
}
