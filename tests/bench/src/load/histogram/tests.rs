use super::*;

#[test]
fn every_value_is_in_a_bucket_that_is_near_it() {
    for shift in 0..63 {
        for offset in [0, 1, 3] {
            let value = (1_u64 << shift) + offset;
            let near = middle(index(value));
            assert!(near.abs_diff(value) as f64 <= value as f64 / 64.0, "{value} is kept as {near}");
        }
    }
    assert!(index(u64::MAX) < ROWS * SUB as usize);
}

#[test]
fn percentiles_are_those_of_the_values() {
    let mut histogram = Histogram::default();
    (1..=10_000).for_each(|value| histogram.record(value * 100));
    let near = |found: u64, right: u64| found.abs_diff(right) as f64 <= right as f64 * 0.016;
    assert!(near(histogram.percentile(0.5), 500_000), "{}", histogram.percentile(0.5));
    assert!(near(histogram.percentile(0.99), 990_000), "{}", histogram.percentile(0.99));
    assert_eq!((histogram.count(), histogram.max()), (10_000, 1_000_000));
}

#[test]
fn merged_histograms_are_one_and_an_empty_one_has_no_times() {
    let mut all = Histogram::default();
    assert_eq!(all.percentile(0.99), 0);
    let mut other = Histogram::default();
    other.record(1_000);
    all.record(10);
    all.merge(&other);
    assert_eq!((all.count(), all.percentile(0.5), all.percentile(1.0)), (2, 10, 1_000));
}
