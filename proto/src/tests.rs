//! The wire is fixed by etcd, so it is pinned here byte by byte.

use bytes::Bytes;
use prost::Message;

use crate::etcdserverpb as pb;
use crate::mvccpb::{Event, KeyValue, event::EventType};

fn round_trip<M: Message + Default + PartialEq + std::fmt::Debug>(message: M) {
    let wire = message.encode_to_vec();
    assert_eq!(M::decode(wire.as_slice()).expect("own encoding decodes"), message);
}

#[test]
fn put_request_has_the_wire_form_of_etcd() {
    let request = pb::PutRequest {
        key: Bytes::from_static(b"k"),
        value: Bytes::from_static(b"v"),
        lease: -1,
        prev_kv: true,
        ignore_value: true,
        ignore_lease: true,
    };
    let wire = [
        0x0a, 1, b'k', // key
        0x12, 1, b'v', // value
        0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, // lease -1
        0x20, 1, 0x28, 1, 0x30, 1, // the three flags
    ];
    assert_eq!(request.encode_to_vec(), wire);
    assert_eq!(
        pb::PutRequest::decode(&wire[..]).expect("golden bytes decode"),
        request
    );
}

#[test]
fn compare_keeps_its_range_end_in_field_64() {
    let compare = pb::Compare {
        result: pb::compare::CompareResult::NotEqual.into(),
        target: pb::compare::CompareTarget::Lease.into(),
        key: Bytes::from_static(b"a"),
        range_end: Bytes::from_static(b"b"),
        target_union: Some(pb::compare::TargetUnion::Lease(0)),
    };
    let wire = [
        0x08, 3, 0x10, 4, 0x1a, 1, b'a', // result, target, key
        0x40, 0, // a union member is written even when zero
        0x82, 0x04, 1, b'b', // field 64, length-delimited
    ];
    assert_eq!(compare.encode_to_vec(), wire);
    assert_eq!(
        pb::Compare::decode(&wire[..]).expect("golden bytes decode"),
        compare
    );
}

#[test]
fn pairs_and_events_in_replies_read_back_as_messages() {
    let pair = KeyValue {
        key: Bytes::from_static(b"k"),
        create_revision: 2,
        mod_revision: 3,
        version: 2,
        value: Bytes::from_static(b"v"),
        lease: 7,
    };
    let event = Event {
        r#type: EventType::Delete.into(),
        kv: Some(pair.clone()),
        prev_kv: None,
    };
    let reply = pb::RangeResponse {
        kvs: vec![pair.encode_to_vec().into()],
        count: 1,
        ..Default::default()
    };
    // kvs is field 2, as if it were declared `repeated KeyValue`.
    assert_eq!(reply.encode_to_vec()[0], 0x12);
    assert_eq!(
        KeyValue::decode(reply.kvs[0].clone()).expect("pair decodes"),
        pair
    );

    let watch = pb::WatchResponse {
        events: vec![event.encode_to_vec().into()],
        ..Default::default()
    };
    // events is field 11.
    assert_eq!(watch.encode_to_vec()[0], 0x5a);
    assert_eq!(
        Event::decode(watch.events[0].clone()).expect("event decodes"),
        event
    );
    round_trip(reply);
    round_trip(watch);
}

#[test]
fn nested_txn_round_trips() {
    let put = |key: &'static str| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
            key: Bytes::from_static(key.as_bytes()),
            ..Default::default()
        })),
    };
    let inner = pb::TxnRequest {
        success: vec![put("inner")],
        ..Default::default()
    };
    let nested = pb::RequestOp {
        request: Some(pb::request_op::Request::RequestTxn(inner)),
    };
    round_trip(pb::TxnRequest {
        success: vec![put("outer"), nested],
        ..Default::default()
    });
}

#[test]
fn decoded_values_share_the_buffer_they_came_in() {
    let wire = Bytes::from(
        pb::PutRequest {
            value: Bytes::from(vec![7; 100]),
            ..Default::default()
        }
        .encode_to_vec(),
    );
    let value = pb::PutRequest::decode(wire.clone())
        .expect("own encoding decodes")
        .value;
    assert!(wire.as_ptr_range().contains(&value.as_ptr()));
}

#[test]
fn hello_round_trips() {
    round_trip(crate::peer::Hello {
        cluster_id: u64::MAX,
        from: 1,
        to: 2,
        version: 1,
        purpose: 2,
        refusal: "cluster ID mismatch".to_owned(),
    });
}
