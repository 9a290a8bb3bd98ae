//! Multi-version state in memory: the ordered index, the history of each key, the newest records.

mod chunked;
pub mod history;
pub mod index;
pub mod live_changes;
pub mod overlay;
pub mod range;
