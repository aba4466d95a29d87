#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_identity::{BuiltinAuthority, KeyRequest};
use mesh_model::{Identity, TrustDomain};

use super::{Issuer, SignRefusal, server_certificate};
use crate::index::Captures;
use crate::metrics::Metrics;
use crate::publish::Hub;
use crate::watch::{Batch, FactChange, facts_of};

#[test]
fn a_certificate_is_of_the_identity_that_was_authorised_and_lives_as_long_as_configured() {
    let dir = tempfile::tempdir().unwrap();
    let authority = BuiltinAuthority::open_or_create(
        &dir.path().join("state"),
        &TrustDomain::new("cluster.local").unwrap(),
    )
    .unwrap();
    let authority = Arc::new(authority);
    let hub = Hub::new(Captures::default(), Metrics::default());
    let facts = facts_of(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop, uid: u}\nspec: {nodeName: one, containers: []}\n",
    );
    let changes = facts.unwrap().into_iter().map(FactChange::Set).collect();
    hub.apply(Batch { changes, rows: Vec::new(), partial: false });
    let issuer = Issuer::new(authority.clone(), Duration::from_secs(3600));

    let identity: Identity = "spiffe://cluster.local/ns/shop/sa/default".parse().unwrap();
    let request = KeyRequest::new(&identity).unwrap();
    let chain = issuer.sign(&hub, "one", &identity, &request.csr_pem()).unwrap();
    let certificate = request.finish(&chain).unwrap();
    assert_eq!(certificate.identity(), &identity);
    let left = certificate.not_after().duration_since(SystemTime::now()).unwrap();
    assert!(left > Duration::from_secs(3_590) && left < Duration::from_secs(3_605), "{left:?}");

    // A setting that changes holds for every share of the issuer.
    issuer.clone().set_lifetime(Duration::from_secs(120));
    let request = KeyRequest::new(&identity).unwrap();
    let chain = issuer.sign(&hub, "one", &identity, &request.csr_pem()).unwrap();
    let certificate = request.finish(&chain).unwrap();
    let left = certificate.not_after().duration_since(SystemTime::now()).unwrap();
    assert!(left > Duration::from_secs(110) && left < Duration::from_secs(125), "{left:?}");
    let age = SystemTime::now().duration_since(certificate.not_before()).unwrap();
    assert!(age > Duration::from_secs(590), "not back-dated: {age:?}");

    let request = KeyRequest::new(&identity).unwrap();
    let refusal = issuer.sign(&hub, "two", &identity, &request.csr_pem()).unwrap_err();
    assert_eq!(refusal.reason(), "not_on_node");
    let refusal = issuer.sign(&hub, "one", &identity, "garbage").unwrap_err();
    assert!(matches!(refusal, SignRefusal::BadRequest(_)), "{refusal:?}");

    let own = server_certificate(&*authority, Duration::from_secs(60)).unwrap();
    assert!(own.not_after() > SystemTime::now());
}
