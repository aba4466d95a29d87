use super::*;

#[test]
fn a_line_is_written_once_a_second_with_how_often_it_was_due() {
    let (quiet, start) = (Quiet::default(), Instant::now());
    let at = |millis: u64| quiet.due_at(start + Duration::from_millis(millis));
    assert_eq!(
        [at(0), at(1), at(999), at(1000), at(1001), at(5000)],
        [Some(1), None, None, Some(3), None, Some(2)]
    );
}
