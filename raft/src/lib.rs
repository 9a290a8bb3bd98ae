//! openraft fitted to Kelson's storage and wire. What leaves this crate is [`node::Node`]; openraft's types do not.

pub mod node;
