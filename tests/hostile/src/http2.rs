//! HTTP/2 frames and header blocks, byte by byte (RFC 9113, RFC 7541): as much as is needed to misuse them.

/// Frame types (RFC 9113, section 6).
pub mod kind {
    #![allow(missing_docs, reason = "the standard's own names")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// What a client says first (section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Flag of DATA and HEADERS.
pub const END_STREAM: u8 = 1;
/// Flag of HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 4;
/// Flag of SETTINGS and PING.
pub const ACK: u8 = 1;

/// Error codes (section 7).
pub mod code {
    #![allow(missing_docs, reason = "the standard's own names")]
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// See [`kind`].
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// 0 is the connection.
    pub stream: u32,
    /// The rest.
    pub payload: Vec<u8>,
}

/// Writes a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(9 + payload.len());
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Takes a frame from the front, if a whole one is there.
pub fn take(bytes: &mut Vec<u8>) -> Option<Frame> {
    let [a, b, c, kind, flags, w, x, y, z] = *bytes.first_chunk()?;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    let payload = bytes.get(9..9 + length)?.to_vec();
    bytes.drain(..9 + length);
    let stream = u32::from_be_bytes([w, x, y, z]) & (u32::MAX >> 1);
    Some(Frame { kind, flags, stream, payload })
}

/// A block of headers, each a literal that is not to be indexed and not Huffman-coded.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            integer(&mut bytes, text.len());
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

/// An integer with a prefix of seven bits (RFC 7541, section 5.1).
fn integer(bytes: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        return bytes.push(value as u8);
    }
    bytes.push(127);
    value -= 127;
    while value >= 128 {
        bytes.push(0x80 | (value & 127) as u8);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// A CONNECT.
pub fn connect(stream: u32, authority: &str) -> Vec<u8> {
    request(stream, &[(":method", "CONNECT"), (":authority", authority)])
}

/// A request of these headers, whose body is open.
pub fn request(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(kind::HEADERS, END_HEADERS, stream, &block(fields))
}

/// RST_STREAM.
pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// WINDOW_UPDATE.
pub fn update(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// SETTINGS with one setting.
pub fn setting(name: u16, value: u32) -> Vec<u8> {
    let payload = [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// Reads statuses: the first field of each response. Some are in the table, the others are put there.
#[derive(Debug, Default)]
pub struct Statuses {
    /// The dynamic table, newest first. Nothing but statuses comes from the mesh.
    table: Vec<u16>,
}

impl Statuses {
    /// The status of a response.
    pub fn read(&mut self, block: &[u8]) -> Option<u16> {
        let (first, mut rest) = block.split_first()?;
        match first {
            // Size updates of the table come first.
            0x20..=0x3f => self.read(rest),
            0x88..=0x8e => Some([200, 204, 206, 304, 400, 404, 500][usize::from(first - 0x88)]),
            0xbe..=0xfe => self.table.get(usize::from(first - 0xbe)).copied(),
            // A literal with the name of field 8 to 14, which is `:status`; the first kind is added to the table.
            0x48..=0x4e | 0x08..=0x0e => {
                let status = text(&mut rest)?.parse().ok()?;
                if *first >= 0x40 {
                    self.table.insert(0, status);
                }
                Some(status)
            }
            _ => None,
        }
    }
}

/// A string of digits.
fn text(bytes: &mut &[u8]) -> Option<String> {
    let (first, rest) = bytes.split_first()?;
    let raw = rest.get(..usize::from(first & 0x7f))?;
    if first & 0x80 == 0 {
        return Some(String::from_utf8_lossy(raw).into_owned());
    }
    // Huffman codes of digits: 0 to 2 are five bits, 3 to 9 six (RFC 7541, appendix B).
    let bits: Vec<u8> = raw.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0_u8, |all, bit| all << 1 | bit);
    let (mut at, mut digits) = (0, String::new());
    while let Some(five) = bits.get(at..at + 5) {
        if number(five) < 3 {
            digits.push(char::from(b'0' + number(five)));
            at += 5;
        } else {
            match bits.get(at..at + 6).map(number) {
                Some(six @ 0x19..=0x1f) => digits.push(char::from(b'3' + six - 0x19)),
                _ => break,
            }
            at += 6;
        }
    }
    Some(digits)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn statuses_are_read_in_every_form() {
        let mut statuses = Statuses::default();
        assert_eq!(statuses.read(&[0x88]), Some(200));
        assert_eq!(statuses.read(&[0x8c]), Some(400));
        assert_eq!(statuses.read(b"\x48\x03503"), Some(503));
        // Huffman-coded 431: 011010 011001 00001 and padding.
        assert_eq!(statuses.read(&[0x48, 0x83, 0b0110_1001, 0b1001_0000, 0b1111_1111]), Some(431));
        assert_eq!(statuses.read(&[0xbe]), Some(431));
        assert_eq!(statuses.read(&[0xbf]), Some(503));
    }

    #[test]
    fn what_is_written_can_be_taken() {
        let mut bytes = [connect(1, "10.0.0.1:80"), update(0, 7)].concat();
        let first = take(&mut bytes).unwrap();
        assert_eq!((first.kind, first.stream), (kind::HEADERS, 1));
        assert_eq!(take(&mut bytes).unwrap().payload, 7_u32.to_be_bytes());
        assert_eq!(take(&mut bytes), None);
    }
}
