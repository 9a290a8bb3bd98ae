//! The order of what happens to a watch hub.

use kelson_server::watch::testing;

use super::Input;

/// Plays until the bytes run out.
pub(super) fn play(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    testing::play(|end| (!input.is_empty()).then(|| input.below(end)));
}
