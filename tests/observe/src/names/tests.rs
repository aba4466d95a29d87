use super::*;

#[test]
fn a_document_names_metrics_and_not_their_families() {
    let found = names_in("`weft_a_total{b}` and `weft_controller_*`, process_* ; `process_open_fds` weft_");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["process_open_fds", "weft_a_total"]);
}

#[test]
fn a_slip_of_the_pen_is_seen_in_names_and_labels() {
    let names = Names::known().unwrap();
    assert!(
        names
            .complaints("sum by (reason) (rate(weft_connections_failed_total{direction=\"inbound\"}[5m]))")
            .is_empty()
    );
    assert_eq!(
        names.complaints("weft_connections_faild_total"),
        ["there is no metric \"weft_connections_faild_total\""]
    );
    assert_eq!(
        names.complaints("weft_connections_failed_total{raeson=\"x\"}"),
        ["weft_connections_failed_total has no label raeson"]
    );
    assert_eq!(names.complaints("sum by (raeson) (weft_pods)"), ["nothing in it has the label raeson"]);
}
