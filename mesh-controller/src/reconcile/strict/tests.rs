#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name)
}

fn dialled() -> Dialled {
    let webhook = |name: &str, service: &str, port| {
        (format!("ValidatingWebhookConfiguration {name}"), key(service), port)
    };
    Dialled {
        webhooks: vec![
            webhook("policy", "hook", 443),
            webhook("outside", "elsewhere", 443),
            webhook("open", "hook", 8443),
        ],
        api_services: vec![("APIService v1.metrics.test".into(), key("metrics"), 443)],
    }
}

#[test]
fn nobody_is_named_where_nobody_is_cut() {
    assert_eq!(sentence(&Bare::default(), &dialled(), true), None);
}

#[test]
fn whoever_has_a_captured_pod_behind_is_named() {
    let bare = Bare {
        ports: [(key("hook"), 443), (key("metrics"), 443), (key("web"), 80)].into(),
        exposed: [key("web")].into(),
        callers: ["192.0.2.1 to shop/web:8080".to_owned()].into(),
    };
    let text = sentence(&bare, &dialled(), false).unwrap();
    for part in [
        "mtls: Strict would cut",
        "webhooks ValidatingWebhookConfiguration policy (Service shop/hook);",
        "APIServices APIService v1.metrics.test (Service shop/metrics)",
        "outside the cluster of the Services shop/web",
        "192.0.2.1 to shop/web:8080",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains("outside (") && !text.contains("open ("), "{text}");
    assert!(sentence(&bare, &dialled(), true).unwrap().contains("Strict cuts"));
}

#[test]
fn a_long_list_is_cut_short() {
    let callers = (0..9).map(|n| format!("192.0.2.{n} to shop/web:80")).collect();
    let text = sentence(&Bare { callers, ..Bare::default() }, &Dialled::default(), true).unwrap();
    assert!(
        text.contains("192.0.2.4") && !text.contains("192.0.2.5") && text.contains("and 4 more"),
        "{text}"
    );
}
