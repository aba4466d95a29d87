#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

const PAGE: &str = "# HELP weft_metric_series Series.\n# TYPE weft_metric_series gauge\nweft_metric_series 12\n\
                    weft_metric_max_series 20000\nweft_connections_opened_total{direction=\"outbound\"} 3\n";

#[test]
fn a_scrape_is_told_by_its_series_bytes_and_cpu() {
    let times = [2, 4, 3].map(Duration::from_millis);
    let scrape = Scrape::of(PAGE, &times, Duration::from_millis(6)).unwrap();
    assert_eq!((scrape.pair_series, scrape.max_series, scrape.series), (12, 20_000, 3));
    assert_eq!(scrape.bytes, PAGE.len() as u64);
    assert!((scrape.millis.median - 3.0).abs() < 1e-9 && (scrape.cpu_millis - 2.0).abs() < 1e-9);
    assert!((scrape.share(Duration::from_secs(20)) - 0.0001).abs() < 1e-12);
}

#[test]
fn a_page_without_the_count_of_series_is_an_error() {
    let error = Scrape::of("weft_metric_series 1\n", &[], Duration::ZERO).unwrap_err();
    assert!(error.to_string().contains("weft_metric_max_series"), "{error}");
}
