use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn put() -> impl Strategy<Value = Put> {
    (bytes(), bytes(), any::<i64>(), any::<[bool; 3]>()).prop_map(
        |(key, value, lease, [prev_kv, ignore_value, ignore_lease])| Put {
            key,
            value,
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete() -> impl Strategy<Value = DeleteRange> {
    (bytes(), bytes(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRange {
        key,
        range_end,
        prev_kv,
    })
}

fn range() -> impl Strategy<Value = Range> {
    use SortTarget::*;
    (
        (bytes(), bytes(), any::<[i64; 6]>(), any::<[bool; 2]>()),
        prop::sample::select(vec![SortOrder::None, SortOrder::Ascend, SortOrder::Descend]),
        prop::sample::select(vec![Key, Version, Create, Mod, Value]),
    )
        .prop_map(
            |((key, range_end, numbers, flags), sort_order, sort_target)| Range {
                key,
                range_end,
                limit: numbers[0],
                revision: numbers[1],
                sort_order,
                sort_target,
                keys_only: flags[0],
                count_only: flags[1],
                min_mod_revision: numbers[2],
                max_mod_revision: numbers[3],
                min_create_revision: numbers[4],
                max_create_revision: numbers[5],
            },
        )
}

fn compare() -> impl Strategy<Value = Compare> {
    use CompareResult::*;
    let operand = prop_oneof![
        any::<i64>().prop_map(CompareOperand::Version),
        any::<i64>().prop_map(CompareOperand::Create),
        any::<i64>().prop_map(CompareOperand::Mod),
        bytes().prop_map(CompareOperand::Value),
        any::<i64>().prop_map(CompareOperand::Lease),
        Just(CompareOperand::Unknown),
    ];
    let result = prop::sample::select(vec![Equal, Greater, Less, NotEqual, Always]);
    (bytes(), bytes(), result, operand).prop_map(|(key, range_end, result, operand)| Compare {
        key,
        range_end,
        result,
        operand,
    })
}

fn txn() -> impl Strategy<Value = Txn> {
    let leaf = prop_oneof![
        range().prop_map(TxnOp::Range),
        put().prop_map(TxnOp::Put),
        delete().prop_map(TxnOp::DeleteRange),
    ];
    let op = leaf.prop_recursive(3, 12, 3, |op| {
        (vec(compare(), 0..2), vec(op.clone(), 0..3), vec(op, 0..3)).prop_map(
            |(compares, success, failure)| {
                TxnOp::Txn(Txn {
                    compares,
                    success,
                    failure,
                })
            },
        )
    });
    (vec(compare(), 0..3), vec(op.clone(), 0..3), vec(op, 0..3)).prop_map(|(compares, success, failure)| {
        Txn {
            compares,
            success,
            failure,
        }
    })
}

fn command() -> impl Strategy<Value = Command> {
    use AlarmAction::*;
    let alarm = (
        prop::sample::select(vec![Get, Activate, Deactivate]),
        any::<u64>(),
        prop::sample::select(vec![AlarmKind::None, AlarmKind::NoSpace, AlarmKind::Corrupt]),
    );
    prop_oneof![
        put().prop_map(Command::Put),
        delete().prop_map(Command::DeleteRange),
        txn().prop_map(Command::Txn),
        any::<i64>().prop_map(|revision| Command::Compact { revision }),
        any::<(i64, i64)>().prop_map(|(id, ttl)| Command::LeaseGrant { id, ttl }),
        any::<(i64, Option<u64>)>().prop_map(|(id, expiry_term)| Command::LeaseRevoke { id, expiry_term }),
        alarm.prop_map(|(action, member, alarm)| Command::Alarm {
            action,
            member,
            alarm
        }),
        (any::<u64>(), "\\PC{0,9}", vec("\\PC{0,9}", 0..3)).prop_map(|(id, name, client_urls)| {
            Command::PublishMember {
                id,
                name,
                client_urls,
            }
        }),
        "[0-9.]{0,9}".prop_map(|version| Command::ClusterVersion { version }),
    ]
}

fn proposal() -> impl Strategy<Value = Proposal> {
    (any::<[u64; 4]>(), command()).prop_map(|([origin, session, seq, low], command)| Proposal {
        id: CommandId { origin, session, seq },
        low,
        command,
    })
}

proptest! {
    #[test]
    fn batches_read_back_as_written_and_join_by_appending(
        first in vec(proposal(), 0..4),
        second in vec(proposal(), 0..4),
    ) {
        let mut joined = BytesMut::from(&encode_batch(&first)[..]);
        joined.extend_from_slice(&encode_batch(&second));
        let joined = joined.freeze();
        let read: Result<Vec<_>, _> = decode_batch(&joined).collect();
        let all: Vec<_> = first.into_iter().chain(second).collect();
        let kinds: Vec<_> = kinds(&joined).collect();
        let expected: Vec<_> = all.iter().map(|proposal| (proposal.id, proposal.command.kind())).collect();
        prop_assert_eq!(kinds, expected);
        prop_assert_eq!(read, Ok(all));
    }

    #[test]
    fn cut_batch_is_an_error_or_a_whole_number_of_frames(proposals in vec(proposal(), 1..3), cut in 0.0..1.0) {
        let batch = encode_batch(&proposals);
        let cut = (batch.len() as f64 * cut) as usize;
        let read: Vec<_> = decode_batch(&batch.slice(..cut)).collect();
        let whole = read.iter().filter(|read| read.is_ok()).count();
        prop_assert_eq!(encode_batch(&proposals[..whole]).len() == cut, read.iter().all(Result::is_ok));
    }

    #[test]
    fn any_bytes_end_in_proposals_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
        let batch = Bytes::from(bytes);
        let readable = decode_batch(&batch).filter(Result::is_ok).count();
        prop_assert!(kinds(&batch).count() >= readable);
    }
}

#[test]
fn values_are_slices_of_the_batch() {
    let batch = encode_batch(&[Proposal {
        id: CommandId {
            origin: 1,
            session: 1,
            seq: 1,
        },
        low: 1,
        command: Command::Put(Put {
            key: Bytes::from_static(b"key"),
            value: Bytes::from_static(b"value"),
            ..Put::default()
        }),
    }]);
    let proposal = decode_batch(&batch).next().unwrap().unwrap();
    let Command::Put(put) = proposal.command else {
        panic!("not a put");
    };
    let batch = batch.as_ptr_range();
    assert!(batch.contains(&put.value.as_ptr()) && batch.contains(&put.key.as_ptr()));
}

#[test]
fn nesting_without_end_is_an_error() {
    let mut txn = Txn::default();
    for _ in 0..TXN_DEPTH_MAX {
        txn = Txn {
            success: vec![TxnOp::Txn(txn)],
            ..Txn::default()
        };
    }
    let proposal = Proposal {
        id: CommandId {
            origin: 1,
            session: 1,
            seq: 1,
        },
        low: 1,
        command: Command::Txn(txn),
    };
    assert!(decode_batch(&encode_batch(&[proposal])).next().unwrap().is_err());
}
