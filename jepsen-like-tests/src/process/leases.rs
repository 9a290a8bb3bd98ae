//! Work with leases: granted, kept alive, revoked, left to end; and locks made of them.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use super::client::Client;
use super::load::{Shared, equal, prefixed, put_op, range_op};
use crate::history::{
    Blob, CompareTarget, DeleteRange, LeaseGrant, LeaseId, Put, Request, Response, SortOrder, SortTarget,
    Txn, TxnOp,
};

/// Keys of a lease.
const KEYS_MAX: usize = 3;

/// Times to live, in s. The shortest is what servers grant at default timers.
const TTL: std::ops::RangeInclusive<i64> = 2..=5;

/// Pause between two tries to get a lock.
const TRY_EVERY: Duration = Duration::from_millis(100);

/// Writes of a lock's holder.
const GUARDED_WRITES: usize = 4;

/// One lease from grant to end.
pub async fn lease(client: &mut Client, shared: &Shared) {
    let ttl = client.rng.random_range(TTL);
    let Some(id) = grant(client, ttl).await else {
        return;
    };
    for key in 0..client.rng.random_range(1..=KEYS_MAX) {
        let put = Put {
            key: format!("l/{}/{key}", client.id).into(),
            value: client.value(),
            lease: id,
            ..Put::default()
        };
        client.call(Request::Put(put)).await;
    }
    let rounds = client.rng.random_range(0..6);
    for _ in 0..rounds {
        if !shared.goes_on() {
            break;
        }
        let third = u64::try_from(ttl).unwrap_or(1) * 1_000 / 3;
        tokio::time::sleep(Duration::from_millis(third)).await;
        if client.rng.random_bool(0.2) {
            let question = LeaseId { id, keys: true };
            client.call(Request::LeaseTimeToLive(question)).await;
        }
        let kept = client
            .call(Request::LeaseKeepAlive(LeaseId { id, keys: false }))
            .await;
        if matches!(kept, Some(Response::LeaseKeepAlive(answer)) if answer.ttl == 0) {
            return;
        }
    }
    if client.rng.random_bool(0.3) {
        client
            .call(Request::LeaseRevoke(LeaseId { id, keys: false }))
            .await;
    } else {
        // Left to end; somebody else's keys may come meanwhile.
        let rest = client.rng.random_range(0..2_000);
        tokio::time::sleep(Duration::from_millis(rest)).await;
    }
}

async fn grant(client: &mut Client, ttl: i64) -> Option<i64> {
    let id = if client.rng.random_bool(0.3) {
        client.rng.random_range(1..i64::MAX)
    } else {
        0
    };
    match client.call(Request::LeaseGrant(LeaseGrant { id, ttl })).await? {
        Response::LeaseGrant(granted) => Some(granted.id),
        _ => None,
    }
}

/// One lock: queued for, held, used with a guard, given back or forgotten.
pub async fn lock(client: &mut Client, shared: &Shared) {
    let name = format!("lock/{}", client.rng.random_range(0..2));
    let Some(id) = grant(client, 3).await else { return };
    let granted = Instant::now();
    let key: Blob = format!("{name}/{id:x}").into();
    let entry = Txn {
        compare: vec![equal(&key, CompareTarget::Create(0))],
        success: vec![TxnOp::Put(Put {
            key: key.clone(),
            value: client.value(),
            lease: id,
            ..Put::default()
        })],
        failure: vec![range_op(&key)],
    };
    let Some(entered) = client.txn(entry).await else {
        return;
    };
    let mine = entered.header.revision;
    while shared.goes_on() && granted.elapsed() < Duration::from_secs(8) {
        client
            .call(Request::LeaseKeepAlive(LeaseId { id, keys: false }))
            .await;
        let first = crate::history::Range {
            limit: 1,
            sort_order: SortOrder::Ascend,
            sort_target: SortTarget::Create,
            ..prefixed(&format!("{name}/"))
        };
        let Some(queue) = client.range(first).await else {
            continue;
        };
        match queue.kvs.first() {
            Some(holder) if holder.key == key => {
                guarded_writes(client, &name, &key, mine).await;
                break;
            }
            Some(_) => tokio::time::sleep(TRY_EVERY).await,
            None => return,
        }
    }
    // One in five forgets it; the lease ends the lock.
    if client.rng.random_bool(0.8) {
        let delete = DeleteRange {
            key,
            prev_kv: true,
            ..DeleteRange::default()
        };
        client.call(Request::DeleteRange(delete)).await;
        client
            .call(Request::LeaseRevoke(LeaseId { id, keys: false }))
            .await;
    }
}

/// Writes that name the lock they are made under: a lock does not fence by itself.
async fn guarded_writes(client: &mut Client, name: &str, key: &Blob, mine: i64) {
    let guarded: Blob = format!("guarded/{name}").into();
    for _ in 0..GUARDED_WRITES {
        let value = client.value();
        let txn = Txn {
            compare: vec![equal(key, CompareTarget::Create(mine))],
            success: vec![put_op(&guarded, value)],
            failure: vec![range_op(key)],
        };
        match client.txn(txn).await {
            Some(done) if done.succeeded => (),
            _ => return,
        }
    }
}
