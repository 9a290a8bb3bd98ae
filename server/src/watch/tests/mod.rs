//! Tests of the hub and its task against a plain store that remembers everything.

mod interleavings;
mod model;
mod quirks;
mod store;
mod task;
