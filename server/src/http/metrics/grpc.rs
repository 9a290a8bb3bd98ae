//! Metrics of gRPC calls. Every series is there from the start: alert rules divide by them.

use std::sync::atomic::Ordering;

use super::Text;
use crate::services::grpc::meter::{CODES, GrpcMeters, METHODS, MethodMeters};

/// Writes them. `extensive`: how long calls took, too (`--metrics=extensive`).
pub(super) fn write(text: &mut Text, meters: &GrpcMeters, extensive: bool) {
    text.counter(
        "etcd_network_client_grpc_received_bytes_total",
        "Bytes of gRPC messages from clients.",
        meters.received_bytes.get(),
    );
    text.counter(
        "etcd_network_client_grpc_sent_bytes_total",
        "Bytes of gRPC messages to clients.",
        meters.sent_bytes.get(),
    );
    text.family(
        "etcd_server_client_requests_total",
        "counter",
        "Calls by API version of the client.",
    );
    for (kind, version, count) in meters.clients() {
        let labels = [("type", kind), ("client_api_version", version.as_str())];
        text.sample("etcd_server_client_requests_total", &labels, count);
    }
    for (name, help, count) in [
        (
            "grpc_server_started_total",
            "Calls that began.",
            (|method| method.started.get()) as fn(&MethodMeters) -> u64,
        ),
        (
            "grpc_server_msg_received_total",
            "Messages from clients.",
            |method| method.received.get(),
        ),
        ("grpc_server_msg_sent_total", "Messages to clients.", |method| {
            method.sent.get()
        }),
    ] {
        text.family(name, "counter", help);
        for (labels, method) in labelled(meters) {
            text.sample(name, &labels, count(method));
        }
    }
    handled(text, meters);
    if extensive {
        let name = "grpc_server_handling_seconds";
        text.family(name, "histogram", "How long calls took.");
        for (labels, method) in labelled(meters) {
            text.histogram_samples(name, &labels, &method.handling);
        }
    }
}

fn handled(text: &mut Text, meters: &GrpcMeters) {
    let name = "grpc_server_handled_total";
    text.family(name, "counter", "Calls that ended, by status.");
    for ([kind, service, method], counts) in labelled(meters) {
        for (code, count) in CODES.iter().zip(&counts.handled) {
            let labels = [kind, service, method, ("grpc_code", *code)];
            text.sample(name, &labels, count.load(Ordering::Relaxed));
        }
    }
}

type Labels = [(&'static str, &'static str); 3];

fn labelled(meters: &GrpcMeters) -> impl Iterator<Item = (Labels, &MethodMeters)> {
    METHODS.iter().zip(&meters.methods).map(|(method, counts)| {
        let labels = [
            ("grpc_type", method.shape.name()),
            ("grpc_service", method.service),
            ("grpc_method", method.name),
        ];
        (labels, counts)
    })
}
