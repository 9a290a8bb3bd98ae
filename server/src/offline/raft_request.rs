//! Commands in the form in which etcd keeps them in its log, so that tools that read etcd's entries read ours.
//!
//! Source: etcd 3.7 `raft_internal.proto`. What a command id says is not etcd's `header.ID` and is printed beside it.

use kelson_proto::etcdserverpb as pb;
use kelson_storage::command::{
    AlarmAction, AlarmKind, Command, Compare, CompareOperand, CompareResult, DeleteRange, Put, Range,
    SortOrder, SortTarget, Txn, TxnOp,
};

/// A number that none of etcd's enums has: what a client sent that we keep as "unknown".
const UNKNOWN: i32 = -1;

/// etcd's `InternalRaftRequest`, the fields that a command can become.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct InternalRaftRequest {
    #[prost(message, optional, tag = "4")]
    pub(super) put: Option<pb::PutRequest>,
    #[prost(message, optional, tag = "5")]
    pub(super) delete_range: Option<pb::DeleteRangeRequest>,
    #[prost(message, optional, tag = "6")]
    pub(super) txn: Option<pb::TxnRequest>,
    #[prost(message, optional, tag = "7")]
    pub(super) compaction: Option<pb::CompactionRequest>,
    #[prost(message, optional, tag = "8")]
    pub(super) lease_grant: Option<pb::LeaseGrantRequest>,
    #[prost(message, optional, tag = "9")]
    pub(super) lease_revoke: Option<pb::LeaseRevokeRequest>,
    #[prost(message, optional, tag = "10")]
    pub(super) alarm: Option<pb::AlarmRequest>,
    #[prost(message, optional, tag = "1300")]
    pub(super) cluster_version_set: Option<ClusterVersionSetRequest>,
    #[prost(message, optional, tag = "1301")]
    pub(super) cluster_member_attr_set: Option<ClusterMemberAttrSetRequest>,
}

/// etcd's `membershippb.ClusterVersionSetRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ClusterVersionSetRequest {
    #[prost(string, tag = "1")]
    pub(super) ver: String,
}

/// etcd's `membershippb.ClusterMemberAttrSetRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ClusterMemberAttrSetRequest {
    #[prost(uint64, tag = "1")]
    pub(super) member_id: u64,
    #[prost(message, optional, tag = "2")]
    pub(super) member_attributes: Option<Attributes>,
}

/// etcd's `membershippb.Attributes`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Attributes {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, repeated, tag = "2")]
    pub(super) client_urls: Vec<String>,
}

/// The name of the field of [`InternalRaftRequest`] that a command becomes.
pub(super) fn kind(command: &Command) -> &'static str {
    match command {
        Command::Put(_) => "put",
        Command::DeleteRange(_) => "delete_range",
        Command::Txn(_) => "txn",
        Command::Compact { .. } => "compaction",
        Command::LeaseGrant { .. } => "lease_grant",
        Command::LeaseRevoke { .. } => "lease_revoke",
        Command::Alarm { .. } => "alarm",
        Command::PublishMember { .. } => "cluster_member_attr_set",
        Command::ClusterVersion { .. } => "cluster_version_set",
        _ => "unknown",
    }
}

/// The command as etcd's log would hold it.
pub(super) fn raft_request(command: &Command) -> InternalRaftRequest {
    let mut request = InternalRaftRequest::default();
    match command {
        Command::Put(command) => request.put = Some(put(command)),
        Command::DeleteRange(command) => request.delete_range = Some(delete_range(command)),
        Command::Txn(command) => request.txn = Some(txn(command)),
        Command::Compact { revision } => {
            request.compaction = Some(pb::CompactionRequest {
                revision: *revision,
                ..Default::default()
            });
        }
        Command::LeaseGrant { id, ttl } => {
            request.lease_grant = Some(pb::LeaseGrantRequest { id: *id, ttl: *ttl });
        }
        Command::LeaseRevoke { id, .. } => request.lease_revoke = Some(pb::LeaseRevokeRequest { id: *id }),
        Command::Alarm {
            action,
            member,
            alarm,
        } => request.alarm = Some(alarm_request(*action, *member, *alarm)),
        Command::PublishMember {
            id,
            name,
            client_urls,
        } => {
            request.cluster_member_attr_set = Some(ClusterMemberAttrSetRequest {
                member_id: *id,
                member_attributes: Some(Attributes {
                    name: name.clone(),
                    client_urls: client_urls.clone(),
                }),
            });
        }
        Command::ClusterVersion { version } => {
            request.cluster_version_set = Some(ClusterVersionSetRequest { ver: version.clone() });
        }
        _ => {}
    }
    request
}

fn put(put: &Put) -> pb::PutRequest {
    pb::PutRequest {
        key: put.key.clone(),
        value: put.value.clone(),
        lease: put.lease,
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

fn delete_range(delete: &DeleteRange) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest {
        key: delete.key.clone(),
        range_end: delete.range_end.clone(),
        prev_kv: delete.prev_kv,
    }
}

fn range(range: &Range) -> pb::RangeRequest {
    use pb::range_request::{SortOrder as WireOrder, SortTarget as WireTarget};
    let order = match range.sort_order {
        SortOrder::None => WireOrder::None,
        SortOrder::Ascend => WireOrder::Ascend,
        SortOrder::Descend => WireOrder::Descend,
    };
    let target = match range.sort_target {
        SortTarget::Key => WireTarget::Key,
        SortTarget::Version => WireTarget::Version,
        SortTarget::Create => WireTarget::Create,
        SortTarget::Mod => WireTarget::Mod,
        SortTarget::Value => WireTarget::Value,
    };
    pb::RangeRequest {
        key: range.key.clone(),
        range_end: range.range_end.clone(),
        limit: range.limit,
        revision: range.revision,
        sort_order: order.into(),
        sort_target: target.into(),
        keys_only: range.keys_only,
        count_only: range.count_only,
        min_mod_revision: range.min_mod_revision,
        max_mod_revision: range.max_mod_revision,
        min_create_revision: range.min_create_revision,
        max_create_revision: range.max_create_revision,
        ..Default::default()
    }
}

fn txn(txn: &Txn) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: txn.compares.iter().map(compare).collect(),
        success: txn.success.iter().map(operation).collect(),
        failure: txn.failure.iter().map(operation).collect(),
    }
}

fn operation(operation: &TxnOp) -> pb::RequestOp {
    use pb::request_op::Request;
    let request = match operation {
        TxnOp::Range(inner) => Request::RequestRange(range(inner)),
        TxnOp::Put(inner) => Request::RequestPut(put(inner)),
        TxnOp::DeleteRange(inner) => Request::RequestDeleteRange(delete_range(inner)),
        TxnOp::Txn(inner) => Request::RequestTxn(txn(inner)),
    };
    pb::RequestOp {
        request: Some(request),
    }
}

fn compare(compare: &Compare) -> pb::Compare {
    use pb::compare::{CompareResult as WireResult, CompareTarget as Target, TargetUnion as Given};
    let result = match compare.result {
        CompareResult::Equal => WireResult::Equal.into(),
        CompareResult::Greater => WireResult::Greater.into(),
        CompareResult::Less => WireResult::Less.into(),
        CompareResult::NotEqual => WireResult::NotEqual.into(),
        CompareResult::Always => UNKNOWN,
    };
    let (target, given) = match &compare.operand {
        CompareOperand::Version(version) => (Target::Version.into(), Some(Given::Version(*version))),
        CompareOperand::Create(revision) => (Target::Create.into(), Some(Given::CreateRevision(*revision))),
        CompareOperand::Mod(revision) => (Target::Mod.into(), Some(Given::ModRevision(*revision))),
        CompareOperand::Value(value) => (Target::Value.into(), Some(Given::Value(value.clone()))),
        CompareOperand::Lease(lease) => (Target::Lease.into(), Some(Given::Lease(*lease))),
        CompareOperand::Unknown => (UNKNOWN, None),
    };
    pb::Compare {
        result,
        target,
        key: compare.key.clone(),
        range_end: compare.range_end.clone(),
        target_union: given,
    }
}

fn alarm_request(action: AlarmAction, member: u64, alarm: AlarmKind) -> pb::AlarmRequest {
    use pb::alarm_request::AlarmAction as WireAction;
    let action = match action {
        AlarmAction::Get => WireAction::Get,
        AlarmAction::Activate => WireAction::Activate,
        AlarmAction::Deactivate => WireAction::Deactivate,
    };
    let alarm = match alarm {
        AlarmKind::None => pb::AlarmType::None,
        AlarmKind::NoSpace => pb::AlarmType::Nospace,
        AlarmKind::Corrupt => pb::AlarmType::Corrupt,
    };
    pb::AlarmRequest {
        action: action.into(),
        member_id: member,
        alarm: alarm.into(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;

    use super::*;
    use crate::convert;

    /// Through the wire and back, as a tool that reads the dump would.
    fn through_the_wire(command: &Command) -> InternalRaftRequest {
        let bytes = raft_request(command).encode_to_vec();
        InternalRaftRequest::decode(bytes.as_slice()).unwrap()
    }

    #[test]
    fn a_transaction_converts_back_into_the_command_it_was() {
        let put = Put {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(b"v"),
            lease: -7,
            prev_kv: true,
            ..Put::default()
        };
        let delete = DeleteRange {
            key: Bytes::from_static(b"x"),
            range_end: Bytes::from_static(b"\0"),
            prev_kv: true,
        };
        let read = Range {
            key: Bytes::from_static(b"a"),
            sort_order: SortOrder::Descend,
            sort_target: SortTarget::Value,
            limit: 3,
            max_mod_revision: 9,
            ..Range::default()
        };
        let compare = |result, operand| Compare {
            key: Bytes::from_static(b"c"),
            range_end: Bytes::new(),
            result,
            operand,
        };
        let txn = Txn {
            compares: vec![
                compare(CompareResult::Less, CompareOperand::Lease(4)),
                compare(
                    CompareResult::NotEqual,
                    CompareOperand::Value(Bytes::from_static(b"w")),
                ),
                compare(CompareResult::Always, CompareOperand::Mod(2)),
                compare(CompareResult::Equal, CompareOperand::Unknown),
            ],
            success: vec![
                TxnOp::Put(put),
                TxnOp::Txn(Txn {
                    failure: vec![TxnOp::Range(read)],
                    ..Txn::default()
                }),
            ],
            failure: vec![TxnOp::DeleteRange(delete)],
        };
        let wire = through_the_wire(&Command::Txn(txn.clone()));
        assert_eq!(convert::txn(wire.txn.unwrap(), 10), Ok(txn));
    }

    #[test]
    fn the_other_commands_keep_what_etcd_has_a_field_for() {
        let grant = through_the_wire(&Command::LeaseGrant { id: -3, ttl: 60 });
        assert_eq!(
            grant.lease_grant.map(|grant| (grant.id, grant.ttl)),
            Some((-3, 60))
        );
        let publish = through_the_wire(&Command::PublishMember {
            id: 5,
            name: "five".into(),
            client_urls: vec!["http://c".into()],
        });
        let set = publish.cluster_member_attr_set.unwrap();
        let attributes = set.member_attributes.unwrap();
        assert_eq!((set.member_id, attributes.name.as_str()), (5, "five"));
        assert_eq!(attributes.client_urls, ["http://c"]);
        let compact = through_the_wire(&Command::Compact { revision: 8 });
        assert_eq!(compact.compaction.map(|compact| compact.revision), Some(8));
    }
}
