use super::*;

#[test]
fn a_reason_has_some_lines_a_second_and_says_what_was_left_out() {
    let (told, start) = (Told::default(), Instant::now());
    let said: Vec<_> = (0..1000).map(|_| told.tell_at(Reason::Flood, start)).collect();
    assert_eq!(said.iter().flatten().count(), LINES as usize);
    assert_eq!(told.tell_at(Reason::Reset, start), Some(0), "another reason has lines of its own");
    assert_eq!(told.tell_at(Reason::Flood, start + WINDOW), Some(1000 - u64::from(LINES)));
    assert_eq!(told.tell_at(Reason::Flood, start + WINDOW), Some(0));
}

#[test]
fn what_was_left_out_last_is_told_once() {
    let (told, start) = (Told::default(), Instant::now());
    let said = (0..100).filter_map(|_| told.tell_at(Reason::Flood, start)).count();
    assert_eq!(said, LINES as usize);
    assert_eq!(told.rest_at(start), [], "more may come in this second");
    assert_eq!(told.rest_at(start + WINDOW), [(Reason::Flood, 100 - u64::from(LINES))]);
    assert_eq!(told.rest_at(start + 2 * WINDOW), []);
}
