//! kube-apiserver's storage layer as its store sees it: the same messages, field by field, and of the replies what it
//! reads.

use bytes::Bytes;
use kelson_proto::etcdserverpb::{
    self as pb,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request as Op,
    response_op::Response as Answer,
};
use kelson_proto::mvccpb::KeyValue;
use tonic::Status;

use crate::harness::client::request_op;
use crate::harness::{Client, kv_pairs};

/// One apiserver's client of one member.
#[derive(Clone)]
pub struct Registry {
    client: Client,
}

/// What an update or a deletion came to.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// The revision that it made.
    Done(i64),
    /// Somebody was there before: the object as it is at that moment, if there is one.
    Conflict(Option<KeyValue>),
}

impl Outcome {
    /// The revision of what must have worked.
    #[track_caller]
    pub fn done(self) -> i64 {
        match self {
            Outcome::Done(revision) => revision,
            Outcome::Conflict(found) => panic!("conflict with {found:?}"),
        }
    }
}

impl Registry {
    pub fn at(client: Client) -> Self {
        Self { client }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// One object, and the revision of the whole store.
    pub async fn get(&self, key: &[u8]) -> (i64, Option<KeyValue>) {
        let request = pb::RangeRequest {
            key: Bytes::copy_from_slice(key),
            limit: 1,
            ..Default::default()
        };
        let reply = self.client.range(request).await.expect("get succeeds");
        let revision = revision(&reply.header);
        (revision, kv_pairs(&reply.kvs).pop())
    }

    /// The newest revision, asked as a consistent list from the cache asks: of a key that never exists.
    pub async fn current(&self) -> i64 {
        let (revision, nothing) = self.get(b"/registry/pods").await;
        assert_eq!(nothing, None);
        revision
    }

    /// The revision of a new object; none if it exists.
    pub async fn create(&self, key: &[u8], value: &[u8], lease: i64) -> Option<i64> {
        let reply = self
            .try_create(key, value, lease)
            .await
            .expect("create is answered");
        assert_eq!(reply.responses.len(), usize::from(reply.succeeded), "{reply:?}");
        reply.succeeded.then(|| revision(&reply.header))
    }

    pub async fn try_create(&self, key: &[u8], value: &[u8], lease: i64) -> Result<pb::TxnResponse, Status> {
        let request = pb::TxnRequest {
            compare: vec![unchanged_since(key, 0)],
            success: vec![put(key, value, lease)],
            failure: Vec::new(),
        };
        self.client.txn(request).await
    }

    /// Writes over the object of revision `expected`.
    pub async fn update(&self, key: &[u8], value: &[u8], expected: i64, lease: i64) -> Outcome {
        let request = pb::TxnRequest {
            compare: vec![unchanged_since(key, expected)],
            success: vec![put(key, value, lease)],
            failure: vec![get(key)],
        };
        outcome(self.client.txn(request).await.expect("update is answered"))
    }

    /// Deletes the object of revision `expected`.
    pub async fn delete(&self, key: &[u8], expected: i64) -> Outcome {
        let delete = pb::DeleteRangeRequest {
            key: Bytes::copy_from_slice(key),
            ..Default::default()
        };
        let request = pb::TxnRequest {
            compare: vec![unchanged_since(key, expected)],
            success: vec![request_op(Op::RequestDeleteRange(delete))],
            failure: vec![get(key)],
        };
        outcome(self.client.txn(request).await.expect("delete is answered"))
    }

    /// Creates what must not be there yet.
    pub async fn created(&self, key: &str, value: &str) -> i64 {
        let created = self.create(key.as_bytes(), value.as_bytes(), 0).await;
        created.expect("it does not exist yet")
    }

    /// One page of a list; `revision` 0 is the newest.
    pub async fn page(&self, from: &[u8], prefix: &[u8], limit: i64, revision: i64) -> Result<Page, Status> {
        let reply = self
            .client
            .range(page_request(from, prefix, limit, revision))
            .await?;
        Ok(Page::of(&reply))
    }

    /// A whole list by pages, as releases from 1.32 on read it: pinned to the first page's revision, ended by `count`.
    pub async fn list(&self, prefix: &[u8], limit: i64) -> (i64, Vec<KeyValue>) {
        let first = self
            .page(prefix, prefix, limit, 0)
            .await
            .expect("the first page comes");
        let (pinned, mut page, mut all) = (first.revision, first, Vec::new());
        loop {
            let is_last = page.is_last();
            assert_eq!(page.more, !is_last, "count and more agree");
            assert!(is_last || !page.objects.is_empty(), "an empty page is the last");
            let next = page.next();
            all.append(&mut page.objects);
            if is_last {
                return (pinned, all);
            }
            page = self
                .page(&next, prefix, limit, pinned)
                .await
                .expect("the next page comes");
        }
    }
}

/// One page of a list.
#[derive(Debug)]
pub struct Page {
    pub revision: i64,
    pub objects: Vec<KeyValue>,
    pub count: i64,
    pub more: bool,
}

impl Page {
    fn of(reply: &pb::RangeResponse) -> Self {
        Self {
            revision: revision(&reply.header),
            objects: kv_pairs(&reply.kvs),
            count: reply.count,
            more: reply.more,
        }
    }

    /// Whether nothing is behind it, by the rule of 1.32.
    pub fn is_last(&self) -> bool {
        i64::try_from(self.objects.len()).expect("small") >= self.count
    }

    /// Where the next page begins.
    pub fn next(&self) -> Vec<u8> {
        let last = self.objects.last().map(|object| object.key.to_vec());
        let mut key = last.unwrap_or_default();
        key.push(0);
        key
    }
}

/// The request for a page, or for a whole list if `limit` is 0.
pub fn page_request(from: &[u8], prefix: &[u8], limit: i64, revision: i64) -> pb::RangeRequest {
    pb::RangeRequest {
        key: Bytes::copy_from_slice(from),
        range_end: end_of(prefix),
        limit,
        revision,
        ..Default::default()
    }
}

/// A cache's watch of everything after `revision`.
pub fn watch_after(prefix: &[u8], revision: i64) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: Bytes::copy_from_slice(prefix),
        range_end: end_of(prefix),
        start_revision: revision + 1,
        prev_kv: true,
        progress_notify: true,
        ..Default::default()
    }
}

/// The first key behind all that begin with `prefix`, which ends in `/`.
fn end_of(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    *end.last_mut().expect("prefixes end in a slash") += 1;
    end.into()
}

/// The revision of the whole store, which no reply lacks.
#[track_caller]
pub fn revision(header: &Option<pb::ResponseHeader>) -> i64 {
    let revision = header.as_ref().expect("every reply has a header").revision;
    assert!(revision > 0, "zero is an error to the apiserver");
    revision
}

pub fn unchanged_since(key: &[u8], revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: Bytes::copy_from_slice(key),
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Default::default()
    }
}

fn put(key: &[u8], value: &[u8], lease: i64) -> pb::RequestOp {
    request_op(Op::RequestPut(pb::PutRequest {
        key: Bytes::copy_from_slice(key),
        value: Bytes::copy_from_slice(value),
        lease,
        ..Default::default()
    }))
}

fn get(key: &[u8]) -> pb::RequestOp {
    request_op(Op::RequestRange(pb::RangeRequest {
        key: Bytes::copy_from_slice(key),
        ..Default::default()
    }))
}

/// Reads a reply as the apiserver does: of a failure, the first answer, without looking whether there is one.
fn outcome(reply: pb::TxnResponse) -> Outcome {
    let at = revision(&reply.header);
    if reply.succeeded {
        return Outcome::Done(at);
    }
    let Some(Answer::ResponseRange(found)) = &reply.responses[0].response else {
        panic!("a failed write answers with a read: {reply:?}")
    };
    Outcome::Conflict(kv_pairs(&found.kvs).pop())
}
