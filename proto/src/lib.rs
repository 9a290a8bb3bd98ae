//! etcd's client API and the API between members: generated code, and nothing else.
//!
//! The `.proto` files next to this crate are the source; each says which etcd version it matches. Replies
//! carry key-value pairs and events as encoded bytes (see `etcd/rpc.proto`): decode them with
//! [`mvccpb::KeyValue`] and [`mvccpb::Event`].

// Generated code documents what the .proto files document; its lints are its generator's concern.
#![allow(missing_docs, clippy::all)]

/// Keys, their history and the events made of it.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// Users, roles and permissions.
pub mod authpb {
    tonic::include_proto!("authpb");
}

/// KV, Watch, Lease, Cluster, Maintenance and Auth.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

/// Locks held by a lease.
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

/// Leader election among clients.
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

/// The standard gRPC health service (package `grpc.health.v1`).
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// Messages between members (package `kelson.peer`).
pub mod peer {
    tonic::include_proto!("kelson.peer");
}

#[cfg(test)]
mod tests;
