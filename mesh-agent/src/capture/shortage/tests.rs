use super::*;

#[test]
fn the_reserve_is_lent_to_one_at_a_time_and_comes_back() {
    let shortage = Shortage::new();
    let lent = shortage.lend().expect("it is there");
    assert!(shortage.lend().is_none(), "it is lent");
    drop(lent);
    assert!(shortage.lend().is_some(), "it is back");
}

#[test]
fn a_reset_connection_is_no_shortage() {
    for (code, expected) in [(libc::EMFILE, true), (libc::ENFILE, true), (libc::ECONNABORTED, false)] {
        assert_eq!(of_descriptors(&io::Error::from_raw_os_error(code)), expected, "{code}");
    }
}
