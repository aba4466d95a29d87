use super::*;

#[test]
fn a_pods_directory_is_known_in_both_layouts() {
    let uid = "0f0c5dbb-1a3c-4ad1-9b57-0d6a4b1d6c11";
    let pod = Directory::Pod(Uid::new(uid));
    assert_eq!(classify(&format!("pod{uid}")), pod);
    assert_eq!(classify(&format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"))), pod);
    assert_eq!(classify(&format!("kubepods-pod{}.slice", uid.replace('-', "_"))), pod);
    assert_eq!(classify(&format!("kubelet-kubepods-besteffort-pod{}.slice", uid.replace('-', "_"))), pod);
    let hash = "6b7a2c9d0e1f4a5b8c7d6e5f4a3b2c1d";
    assert_eq!(classify(&format!("pod{hash}")), Directory::Pod(Uid::new(hash)));
}

#[test]
fn kubelets_own_directories_are_walked_and_others_are_not() {
    for name in ["kubepods", "kubepods.slice", "kubelet-kubepods.slice"] {
        assert_eq!(classify(name), Directory::Kubepods, "{name}");
    }
    for name in ["burstable", "besteffort", "kubepods-burstable.slice", "kubelet", "kubelet.slice"] {
        assert_eq!(classify(name), Directory::Between, "{name}");
    }
    for name in ["system.slice", "podman", "user.slice", "cri-containerd-abc.scope", "pod"] {
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
