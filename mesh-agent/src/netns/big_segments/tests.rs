use super::*;

#[test]
fn the_request_names_lo_and_both_sizes() {
    let bytes = message(LARGE);
    assert_eq!(bytes.len(), 16 + 16 + 2 * 8);
    assert_eq!(bytes[..4], (bytes.len() as u32).to_ne_bytes());
    assert_eq!(bytes[20..24], LOOPBACK.to_ne_bytes());
    for (at, kind) in [(32, 63_u16), (40, 64)] {
        assert_eq!(bytes[at..at + 2], 8_u16.to_ne_bytes());
        assert_eq!(bytes[at + 2..at + 4], kind.to_ne_bytes());
        assert_eq!(bytes[at + 4..at + 8], LARGE.to_ne_bytes());
    }
}
