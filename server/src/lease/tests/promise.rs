//! Promise P11 under random elections: leases never end early and always end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, ELECTION_TIMEOUT};

#[derive(Clone, Debug)]
enum Step {
    Grant {
        ttl: i64,
    },
    /// The nth lease, through some member.
    KeepAlive {
        nth: usize,
        member: usize,
    },
    Elect(u64),
    ElectSecretly {
        leader: u64,
        unaware: u64,
    },
    Enlighten,
    LoseExpiry(bool),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (2..6i64).prop_map(|ttl| Step::Grant { ttl }),
        12 => (0..20usize, 0..3usize).prop_map(|(nth, member)| Step::KeepAlive { nth, member }),
        1 => (0..4u64).prop_map(Step::Elect),
        2 => (1..4u64, 1..4u64).prop_map(|(leader, unaware)| Step::ElectSecretly { leader, unaware }),
        1 => Just(Step::Enlighten),
        1 => any::<bool>().prop_map(Step::LoseExpiry),
        12 => (0..1500u64).prop_map(Step::Pass),
    ]
}

/// By lease: when the last grant or keepalive that was answered well was sent, and when the last answer of any
/// keepalive came.
type Seen = Arc<Mutex<BTreeMap<i64, (Instant, Instant)>>>;

async fn run(steps: Vec<Step>) {
    let cluster = Arc::new(Cluster::start(3));
    let seen: Seen = Arc::default();
    let mut clients = JoinSet::new();
    let mut granted = 0;
    let mut losses = 0;
    for step in steps {
        match step {
            Step::Grant { ttl } => {
                if cluster.grant(granted, ttl) {
                    seen.lock().insert(granted, (Instant::now(), Instant::now()));
                    granted += 1;
                }
            }
            Step::KeepAlive { nth, member } if granted > 0 => {
                let id = nth as i64 % granted;
                let (cluster, seen) = (cluster.clone(), seen.clone());
                clients.spawn(async move {
                    let sent = Instant::now();
                    let answer = cluster.keepers[member].keep_alive(id).await;
                    let mut seen = seen.lock();
                    let (good, any) = seen.get_mut(&id).expect("granted");
                    *any = Instant::now();
                    if answer.is_ok_and(|answer| answer.ttl > 0) {
                        *good = sent.max(*good);
                    }
                });
            }
            Step::KeepAlive { .. } => {}
            Step::Elect(leader) => cluster.elect(leader),
            Step::ElectSecretly { leader, unaware } if leader != unaware => {
                cluster.elect_secretly(leader, unaware);
            }
            Step::ElectSecretly { .. } => {}
            Step::Enlighten => cluster.enlighten(),
            Step::LoseExpiry(applied) => {
                cluster.lose_expiry(applied);
                losses += 1;
            }
            Step::Pass(milliseconds) => sleep(Duration::from_millis(milliseconds)).await,
        }
    }
    cluster.elect(1);
    let elected = Instant::now();
    while clients.join_next().await.is_some() {}
    // A lost expiry delays the end by its request timeout and the pause before the next try.
    let slack = Duration::from_secs(3) + Duration::from_secs(8) * losses;
    sleep(slack + Duration::from_secs(60)).await;
    check(&cluster, &seen.lock(), elected, slack);
}

fn check(cluster: &Cluster, seen: &BTreeMap<i64, (Instant, Instant)>, elected: Instant, slack: Duration) {
    for life in cluster.lives() {
        let ttl = Duration::from_secs(life.ttl as u64);
        let (good, any) = seen[&life.id];
        let ended = life.ended.expect("every lease ends");
        assert!(
            ended >= good + ttl,
            "lease {} ended {:?} early",
            life.id,
            good + ttl - ended
        );
        let latest = any.max(elected + ELECTION_TIMEOUT) + ttl + slack;
        assert!(
            ended <= latest,
            "lease {} ended {:?} late",
            life.id,
            ended - latest
        );
    }
}

/// Fewer than usual, as each is a long one, unless `PROPTEST_CASES` says otherwise.
fn cases() -> u32 {
    const USUAL: u32 = 100;
    std::env::var("PROPTEST_CASES").map_or(USUAL, |cases| cases.parse().expect("a number"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn leases_never_end_early_and_always_end(steps in prop::collection::vec(step(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without sockets");
        runtime.block_on(run(steps));
    }
}
