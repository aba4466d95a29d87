#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

#[test]
fn an_identity_survives_its_own_text() {
    let uri = "spiffe://cluster.local/ns/shop/sa/cart";
    let identity: Identity = uri.parse().unwrap();
    assert_eq!(identity.to_string(), uri);
    assert_eq!((identity.namespace(), identity.service_account()), ("shop", "cart"));
}

#[test]
fn what_the_mesh_does_not_issue_is_no_identity() {
    for uri in [
        "",
        "https://cluster.local/ns/shop/sa/cart",
        "spiffe://cluster.local",
        "spiffe://cluster.local/ns/shop/sa/",
        "spiffe://cluster.local/ns//sa/cart",
        "spiffe://cluster.local/ns/shop/sa/cart/",
        "spiffe://cluster.local/ns/shop/sa/cart/more",
        "spiffe://cluster.local/sa/cart/ns/shop",
        "spiffe://Cluster.local/ns/shop/sa/cart",
        "spiffe://cluster.local:443/ns/shop/sa/cart",
        "spiffe://cluster.local/ns/shop/sa/cart?x",
        "spiffe://cluster.local/ns/sh%6Fp/sa/cart",
        "spiffe:///ns/shop/sa/cart",
        "spiffe://cluster.local/ns/-shop/sa/cart",
    ] {
        assert!(uri.parse::<Identity>().is_err(), "{uri}");
    }
}
