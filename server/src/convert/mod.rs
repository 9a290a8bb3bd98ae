//! Between the wire's messages and Kelson's own: requests become commands, outcomes become replies.
//!
//! A request that converts is valid as far as that can be said without looking at the state: conversion is where the
//! static checks of the API are made, in etcd's order.

mod duplicate_put;
mod reply;
mod request;
#[cfg(test)]
mod tests;

pub use reply::{
    alarm_reply, delete_range_reply, key_of, members, put_reply, range_reply, txn_reply, unexpected,
};
pub use request::{alarm_action, alarm_kind, delete_range, put, range, txn};
