//! What a peer sends: frames, and the messages in them.

use kelson_raft::testing;

use super::Input;

/// A byte stream as it is, or messages of chosen kinds that pass the frame's checksum.
pub(super) fn read(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    if input.once_in(4) {
        testing::read_frames(input.rest());
        return;
    }
    while !input.is_empty() {
        let kind = input.byte();
        testing::read_message(kind, input.bytes(600));
    }
}
