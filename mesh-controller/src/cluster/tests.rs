#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use kube::core::Status;

use super::explain;

fn refusal(code: u16, message: &str) -> kube::Error {
    kube::Error::Api(Status::failure(message, "").with_code(code).boxed())
}

#[test]
fn a_refusal_names_what_is_missing_and_the_remedy() {
    for (resource, error, wanted) in [
        ("pods", refusal(403, "pods is forbidden"), &["may not watch pods", "\"watch\""][..]),
        (
            "meshconfigs.weft.dev",
            refusal(404, "the server could not find the requested resource"),
            &["meshconfigs.weft.dev", "CustomResourceDefinitions", "mesh-crds"],
        ),
        ("nodestates.weft.dev", refusal(404, "404 page not found"), &["CustomResourceDefinitions"]),
        (
            "endpointslices.discovery.k8s.io",
            refusal(404, "the server could not find the requested resource"),
            &["endpointslices", "1.32"],
        ),
        ("pods", refusal(401, "Unauthorized"), &["token"]),
        ("pods", refusal(500, "etcd\n is away"), &["cannot watch pods: etcd is away"]),
    ] {
        let text = explain("watch", resource, &error);
        assert!(wanted.iter().all(|part| text.contains(part)) && !text.contains('\n'), "{text}");
    }
}
