//! HTTP/2 by hand, for what no library would send.

/// What a client begins with. Source: RFC 9113, section 3.4.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames. Source: RFC 9113, section 6.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flag of DATA and HEADERS.
pub const END_STREAM: u8 = 1;
/// Flag of HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 4;

/// Largest payload that needs no permission, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 16_384;

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("frames are short");
    let mut bytes = Vec::with_capacity(9 + payload.len());
    bytes.extend(&length.to_be_bytes()[1..]);
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Preface and empty settings.
pub fn opening() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// The header block of a gRPC call: entries of the static table and literals that are not to be remembered.
pub fn call(path: &str) -> Vec<u8> {
    // POST, http.
    let mut block = vec![0x83, 0x86];
    literal(&mut block, &[0x04], path);
    literal(&mut block, &[0x01], "localhost");
    literal(&mut block, b"\0\x0ccontent-type", "application/grpc");
    literal(&mut block, b"\0\x02te", "trailers");
    block
}

/// A header whose name is encoded already.
pub fn literal(block: &mut Vec<u8>, name: &[u8], value: &str) {
    block.extend(name);
    integer(block, value.len());
    block.extend(value.as_bytes());
}

/// A length in seven bits and more. Source: RFC 7541, section 5.1.
fn integer(block: &mut Vec<u8>, value: usize) {
    const PREFIX_MAX: usize = 0x7f;
    let low = |value: usize| u8::try_from(value & PREFIX_MAX).expect("seven bits");
    if value < PREFIX_MAX {
        block.push(low(value));
        return;
    }
    block.push(0x7f);
    let mut rest = value - PREFIX_MAX;
    while rest > PREFIX_MAX {
        block.push(0x80 | low(rest));
        rest >>= 7;
    }
    block.push(low(rest));
}
