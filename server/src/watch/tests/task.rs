//! The task and the streams around the hub, on a paused clock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use kelson_proto::etcdserverpb::watch_request::RequestUnion;
use kelson_proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use kelson_storage::error::Fault;
use tokio::sync::watch;

use crate::watch::stream::STREAM_REQUESTS_MAX;
use crate::watch::testing::world::{Chronicle, IDENTITY};
use crate::watch::{WatchHub, WatchOptions, WatchRequestError};

const INTERVAL: Duration = Duration::from_secs(600);

struct Setup {
    store: Arc<Chronicle>,
    applied: watch::Sender<u64>,
    hub: WatchHub,
    task: futures::future::BoxFuture<'static, Result<(), Fault>>,
}

impl Setup {
    fn new(fragment_bytes: usize) -> Self {
        let store = Arc::new(Chronicle::new(100, 1 << 16));
        let (applied, seen) = watch::channel(store.revision());
        let options = WatchOptions {
            progress_interval: INTERVAL,
            fragment_bytes,
        };
        let (hub, task) = WatchHub::over(store.clone(), IDENTITY, seen, options);
        Self {
            store,
            applied,
            hub,
            task: task.boxed(),
        }
    }

    fn put(&self, key: &'static str, value: &str) {
        self.applied.send_replace(self.store.put(key, value));
    }

    /// The next response of `responses`, while the task runs; a day of paused time without one is a failure.
    async fn next<S: Stream<Item = WatchResponse> + Unpin>(&mut self, responses: &mut S) -> WatchResponse {
        tokio::select! {
            biased;
            response = responses.next() => response.expect("the stream goes on"),
            ended = &mut self.task => panic!("task ended: {ended:?}"),
            () = tokio::time::sleep(Duration::from_secs(24 * 3600)) => panic!("no response comes"),
        }
    }

    /// Whether nothing comes within `time`.
    async fn is_silent<S: Stream<Item = WatchResponse> + Unpin>(
        &mut self,
        responses: &mut S,
        time: Duration,
    ) -> bool {
        tokio::time::timeout(time, self.next(responses)).await.is_err()
    }
}

fn request(union: RequestUnion) -> WatchRequest {
    WatchRequest {
        request_union: Some(union),
    }
}

fn create(key: &'static str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: Bytes::from_static(key.as_bytes()),
        ..WatchCreateRequest::default()
    }
}

fn creating(key: &'static str) -> WatchRequest {
    request(RequestUnion::CreateRequest(create(key)))
}

fn progress() -> WatchRequest {
    request(RequestUnion::ProgressRequest(WatchProgressRequest {}))
}

#[tokio::test(start_paused = true)]
async fn events_reach_the_client_and_half_close_does_not_stop_them() {
    let mut setup = Setup::new(usize::MAX);
    let stream = setup.hub.open_stream();
    stream.request(creating("a")).expect("room");
    let mut responses = stream.into_responses();
    assert!(setup.next(&mut responses).await.created);
    setup.put("a", "x");
    let response = setup.next(&mut responses).await;
    assert_eq!(response.events.len(), 1);
    assert_eq!(response.header.map(|header| header.revision), Some(2));
    setup.put("b", "x");
    assert!(setup.is_silent(&mut responses, INTERVAL * 3).await);
    assert_eq!((setup.hub.counts().watchers, setup.hub.counts().events), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn unread_replies_bound_the_requests() {
    let mut setup = Setup::new(usize::MAX);
    let (requests, mut responses) = setup.hub.open_stream().split();
    for _ in 0..STREAM_REQUESTS_MAX {
        requests.request(creating("a")).await.expect("room");
    }
    assert!(setup.is_silent(&mut futures::stream::pending(), INTERVAL).await);
    assert_eq!(requests.try_request(progress()), Err(WatchRequestError::Full));
    assert!(requests.request(progress()).now_or_never().is_none());
    for id in 0..3 {
        assert_eq!(setup.next(&mut responses).await.watch_id, id);
    }
    for _ in 0..3 {
        requests.try_request(progress()).expect("room");
    }
    assert_eq!(requests.try_request(progress()), Err(WatchRequestError::Full));
}

#[tokio::test(start_paused = true)]
async fn denied_create_is_answered_in_order() {
    let mut setup = Setup::new(usize::MAX);
    let (requests, mut responses) = setup.hub.open_stream().split();
    requests.request(creating("a")).await.expect("room");
    requests.deny_create(create("b"), "no").await.expect("room");
    requests.request(creating("a")).await.expect("room");
    let mut reasons = Vec::new();
    for _ in 0..3 {
        let response = setup.next(&mut responses).await;
        reasons.push((response.watch_id, response.cancel_reason));
    }
    assert_eq!(
        reasons,
        [(0, String::new()), (-1, "no".to_owned()), (1, String::new())]
    );
}

#[tokio::test(start_paused = true)]
async fn large_responses_are_split_only_for_those_who_asked() {
    let mut setup = Setup::new(1000);
    for _ in 0..10 {
        setup.put("a", &"x".repeat(300));
    }
    let (requests, mut responses) = setup.hub.open_stream().split();
    for fragment in [true, false] {
        let create = WatchCreateRequest {
            start_revision: 1,
            fragment,
            ..create("a")
        };
        let request = request(RequestUnion::CreateRequest(create));
        requests.request(request).await.expect("room");
    }
    assert!(setup.next(&mut responses).await.created);
    let mut events = [0, 0];
    let mut fragments = 0;
    while events != [10, 10] {
        let response = setup.next(&mut responses).await;
        let id = usize::try_from(response.watch_id).expect("0 or 1");
        events[id] += response.events.len();
        fragments += usize::from(response.fragment);
        assert!(!response.fragment || id == 0);
        assert_eq!(response.fragment, id == 0 && events[0] < 10);
    }
    assert!(fragments >= 3);
}

#[tokio::test(start_paused = true)]
async fn periodic_progress_comes_each_interval_and_at_most_a_tenth_later() {
    let mut setup = Setup::new(usize::MAX);
    let mut streams = Vec::new();
    for _ in 0..5 {
        let stream = setup.hub.open_stream();
        let asking = WatchCreateRequest {
            progress_notify: true,
            ..create("a")
        };
        stream
            .request(request(RequestUnion::CreateRequest(asking)))
            .expect("room");
        streams.push(stream.into_responses());
    }
    for responses in &mut streams {
        assert!(setup.next(responses).await.created);
    }
    let began = tokio::time::Instant::now();
    for round in 1..4 {
        for responses in &mut streams {
            let response = setup.next(responses).await;
            assert!(response.events.is_empty() && response.watch_id == 0);
            assert!(began.elapsed() >= INTERVAL * round);
            assert!(began.elapsed() < INTERVAL * round * 11 / 10 + Duration::from_secs(1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn slow_client_gets_everything_when_it_reads_again() {
    let mut setup = Setup::new(usize::MAX);
    let mut responses = {
        let stream = setup.hub.open_stream();
        stream.request(creating("a")).expect("room");
        stream.into_responses()
    };
    assert!(setup.next(&mut responses).await.created);
    let silence = Duration::from_millis(1);
    for _ in 0..1000 {
        setup.put("a", "x");
        setup.is_silent(&mut futures::stream::pending(), silence).await;
    }
    assert_eq!(setup.hub.counts().slow_watchers, 1);
    let mut events = 0;
    while events < 1000 {
        events += setup.next(&mut responses).await.events.len();
    }
    assert!(setup.is_silent(&mut responses, INTERVAL).await);
    assert_eq!(setup.hub.counts().slow_watchers, 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_responses_closes_the_stream() {
    let mut setup = Setup::new(usize::MAX);
    let (requests, mut responses) = setup.hub.open_stream().split();
    requests.request(creating("a")).await.expect("room");
    setup.next(&mut responses).await;
    drop(responses);
    let cancel = request(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 0 }));
    requests.request(cancel).await.expect("ignored");
    assert!(setup.is_silent(&mut futures::stream::pending(), INTERVAL).await);
    assert_eq!((setup.hub.counts().streams, setup.hub.counts().watchers), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn streams_end_with_the_task() {
    let mut setup = Setup::new(usize::MAX);
    let (requests, mut known) = setup.hub.open_stream().split();
    requests.request(creating("a")).await.expect("room");
    setup.next(&mut known).await;
    let (_, mut unknown) = setup.hub.open_stream().split();
    drop(setup.task);
    let mut late = setup.hub.open_stream().into_responses();
    for responses in [&mut known, &mut unknown, &mut late] {
        assert!(responses.next().await.is_none());
    }
    assert_eq!(
        requests.request(progress()).await,
        Err(WatchRequestError::Stopped)
    );
}

#[tokio::test(start_paused = true)]
async fn task_ends_with_the_node_or_with_the_last_handle() {
    let setup = Setup::new(usize::MAX);
    drop(setup.applied);
    assert!(setup.task.await.is_ok());
    let setup = Setup::new(usize::MAX);
    let _node_lives = setup.applied;
    drop(setup.hub);
    assert!(setup.task.await.is_ok());
}
