//! Certificates: only for identities that run on the caller's node.

use mesh_identity::{KeyRequest, Roots};
use mesh_model::Identity;
use mesh_xds::SignError;

use crate::lab::{Lab, eventually, pod};

fn identity(name: &str) -> Identity {
    format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_certificates_for_what_runs_on_it_and_for_nothing_else() {
    let lab = Lab::start().await;
    lab.write("pods.yaml", &(pod("web", "one", "10.0.1.1") + &pod("client", "two", "10.0.2.1")));
    let one = lab.agent("one");
    eventually("the pods", || one.workload("uid-web").ok_or(())).await;

    let key = KeyRequest::new(&identity("web")).unwrap();
    let chain = one.client.sign(&identity("web"), &key.csr_pem()).await.unwrap();
    let certificate = key.finish(&chain).unwrap();
    assert_eq!(certificate.identity(), &identity("web"));
    Roots::from_pem_file(&lab.path("state/root.pem")).unwrap();

    for (name, why) in [("client", "runs on node two"), ("nobody", "runs nowhere")] {
        let key = KeyRequest::new(&identity(name)).unwrap();
        let error = one.client.sign(&identity(name), &key.csr_pem()).await.unwrap_err();
        let SignError::Refused(text) = &error else { panic!("{why}: {error:?}") };
        assert!(text.contains("node one") && text.contains(&identity(name).to_string()), "{why}: {text}");
    }
    let elsewhere: Identity = "spiffe://other.domain/ns/shop/sa/web".parse().unwrap();
    let key = KeyRequest::new(&elsewhere).unwrap();
    let error = one.client.sign(&elsewhere, &key.csr_pem()).await.unwrap_err();
    assert!(matches!(error, SignError::Refused(_)), "{error:?}");
    let error = one.client.sign(&identity("web"), "not a request").await.unwrap_err();
    assert!(matches!(error, SignError::Refused(_)), "{error:?}");

    let metrics = lab.metrics("/metrics").await;
    assert!(metrics.contains("weft_controller_signed_total 1"), "{metrics}");
    assert!(metrics.contains("weft_controller_sign_refusals_total{reason=\"not_on_node\"} 3"), "{metrics}");
    assert!(metrics.contains("weft_controller_sign_refusals_total{reason=\"bad_request\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_pod_has_no_identity_any_more() {
    let lab = Lab::start().await;
    lab.write("web.yaml", &pod("web", "one", "10.0.1.1"));
    let one = lab.agent("one");
    eventually("the pod", || one.workload("uid-web").ok_or(())).await;
    lab.write("web.yaml", &pod("web", "one", "10.0.1.1").replace("Running", "Succeeded"));
    eventually("its end", || match one.workload("uid-web") {
        Some(web) if web.addresses.is_empty() => Ok(()),
        other => Err(other),
    })
    .await;
    let key = KeyRequest::new(&identity("web")).unwrap();
    one.client.sign(&identity("web"), &key.csr_pem()).await.unwrap_err();
}
