use super::*;

#[test]
fn what_would_go_on_for_ever_is_tried_once() {
    let tried = AT_AGENTS.map(|(words, _)| once(words));
    assert_eq!(tried, ["top --once", "connections", "logs"]);
    assert_eq!(once("policy show shop/db"), "policy show shop/db");
}
