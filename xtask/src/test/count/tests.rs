use super::*;

fn row(text: &str) -> Row {
    Row::parse(text).unwrap_or_else(|| panic!("no row: {text:?}"))
}

const ALL_WELL: &str = "
running 3 tests
test route::tests::one ... ok
test route::tests::two ... ok
test three ... ok

test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

const ONE_FAILED: &str = "
running 2 tests
test fine ... ok
test broken ... FAILED

failures:

---- broken stdout ----
    indented
thread 'broken' panicked at src/lib.rs:1:2:
    more words than one

failures:
    broken

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

fn counts(tally: &Tally) -> (u64, u64, u64) {
    (tally.passed, tally.failed, tally.skipped)
}

#[test]
fn functions_count_as_one_each() {
    assert_eq!(tally("p", ALL_WELL, &[], None).to_string(), "3 passed, 0 failed, 0 skipped");
}

#[test]
fn a_test_with_rows_counts_as_its_rows() {
    let rows = [row("pass\tthree\tred\t"), row("pass\tthree\tgreen\t"), row("skip\tthree\tblue\tno IPv6")];
    let tally = tally("p", ALL_WELL, &rows, None);
    assert_eq!(counts(&tally), (4, 0, 1));
    assert_eq!(tally.skips, ["p three / blue: no IPv6"]);
}

#[test]
fn a_failed_test_whose_row_failed_counts_as_that_row() {
    let rows = [row("pass\tbroken\tred\t"), row("fail\tbroken\tgreen\t5 is not 6")];
    let tally = tally("p", ONE_FAILED, &rows, Some("exit code 101"));
    assert_eq!(counts(&tally), (2, 1, 0));
    assert_eq!(tally.failures, ["p broken / green: 5 is not 6"]);
}

#[test]
fn a_failed_test_whose_rows_all_passed_is_a_failure_more() {
    let rows = [row("pass\tbroken\tred\t")];
    let tally = tally("p", ONE_FAILED, &rows, Some("exit code 101"));
    assert_eq!(counts(&tally), (2, 1, 0));
}

#[test]
fn what_a_failed_test_printed_is_no_failure() {
    let seen = Libtest::parse(
        "failures:\n\n---- a stdout ----\n    two words\n\nfailures:\n    a\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored;\n",
    );
    assert_eq!(seen.failed.into_iter().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn a_row_that_failed_in_a_test_that_passed_is_a_failure() {
    let tally = tally("p", ALL_WELL, &[row("fail\tthree\tred\t")], None);
    assert_eq!(counts(&tally), (2, 1, 0));
}

#[test]
fn output_between_name_and_verdict_does_not_change_the_count() {
    let text = "test one ... listening on 1.2.3.4\nok\ntest two ... oops\nFAILED\n\nfailures:\n    two\n\n\
                test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";
    assert_eq!(counts(&tally("p", text, &[], Some("exit code 101"))), (1, 1, 0));
}

#[test]
fn ignored_tests_are_skips_and_long_ones_are_not_counted() {
    let text = "test a ... ignored, needs the moon\ntest b ... ignored, long: 20 minutes\n\
                test c ... ignored, started by a\n\
                test result: ok. 0 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out\n";
    let tally = tally("p", text, &[], None);
    assert_eq!(counts(&tally), (0, 0, 1));
    assert_eq!(tally.skips, ["p a: needs the moon"]);
}

#[test]
fn a_program_that_dies_on_the_way_is_a_failure() {
    let tally = tally("p", "running 2 tests\ntest a ... ok\n", &[], Some("signal 11"));
    assert_eq!(counts(&tally), (0, 1, 0));
    assert_eq!(tally.failures, ["p: signal 11"]);
}

#[test]
fn a_bad_exit_after_good_results_is_a_failure() {
    assert_eq!(counts(&tally("p", ALL_WELL, &[], Some("exit code 3"))), (3, 1, 0));
}

#[test]
fn several_results_in_a_row_add_up() {
    assert_eq!(counts(&tally("p", &ALL_WELL.repeat(2), &[], None)), (6, 0, 0));
}

#[test]
fn a_line_that_is_no_row_is_none() {
    assert_eq!(Row::parse("passed\ta\tb"), None);
    assert_eq!(Row::parse(""), None);
}

#[test]
fn a_row_may_name_its_test_without_the_module() {
    assert!(names("inbound::curl", "curl") && names("curl", "curl"));
    assert!(!names("mycurl", "curl") && !names("inbound::curl", "wget"));
}
