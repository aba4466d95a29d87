use super::*;

#[test]
fn every_pod_of_every_class_is_found_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let kubepods = root.path().join("kubepods");
    let pods = [
        "pod11111111-1111-1111-1111-111111111111",
        "burstable/pod22222222-2222-2222-2222-222222222222",
        "besteffort/pod33333333-3333-3333-3333-333333333333",
    ];
    for directory in pods.iter().copied().chain(["burstable/other", "podruntime"]) {
        fs::create_dir_all(kubepods.join(directory)).unwrap();
    }
    // A container's own is the pod's already.
    fs::create_dir_all(kubepods.join(pods[0]).join("pod44444444-4444-4444-4444-444444444444")).unwrap();
    let mut found = running(&[kubepods.clone(), root.path().join("nowhere")]);
    found.sort();
    let mut wanted = pods.map(|pod| kubepods.join(pod));
    wanted.sort();
    assert_eq!(found, wanted);
}
