//! Load generator for any etcd endpoint.

fn main() {}
