//! Shared proof of leadership: questions that arrive while one quorum round is under way share the next.

use std::time::Duration;

use kelson_storage::mutant;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::LeaseError;
use super::host::Host;

/// How long the leader may take to apply what it has committed. Source: etcd `applyTimeout`.
pub(crate) const APPLY_WAIT_MAX: Duration = Duration::from_secs(1);

/// How often to look at the applied position when nobody reports that it has moved.
const APPLY_POLL: Duration = Duration::from_millis(10);

/// The term for which this member was leader after the question was asked, its store holding everything that had been
/// committed by then.
type Proof = Result<u64, LeaseError>;

/// Who waits for a proof. Bounded by the questions under way.
pub(crate) type Asking = mpsc::UnboundedSender<oneshot::Sender<Proof>>;

/// Asks for a proof of a round that begins after this call.
pub(crate) async fn ask(asking: &Asking) -> Proof {
    let (answer, proof) = oneshot::channel();
    asking.send(answer).map_err(|_gone| LeaseError::Stopped)?;
    proof.await.map_err(|_gone| LeaseError::Stopped)?
}

/// Runs round after round for those who ask, until nobody can ask any more.
pub(crate) async fn run_rounds<H: Host>(
    host: &H,
    mut questions: mpsc::UnboundedReceiver<oneshot::Sender<Proof>>,
) {
    while let Some(first) = questions.recv().await {
        let mut sharing = vec![first];
        while let Ok(next) = questions.try_recv() {
            sharing.push(next);
        }
        let proof = round(host).await;
        for question in sharing {
            // Whoever does not wait any more needs no answer.
            let _ = question.send(proof);
        }
    }
}

async fn round<H: Host>(host: &H) -> Proof {
    if mutant!("M39") {
        // Nobody is asked whether this member still leads.
        let status = host.status();
        return status
            .is_leader()
            .then_some(status.term)
            .ok_or(LeaseError::NotPrimary);
    }
    // Without a quorum there is no answer at all.
    let confirming = timeout(host.election_timeout() * 2, host.confirm_leadership());
    let term = confirming.await.ok().flatten().ok_or(LeaseError::NotPrimary)?;
    let committed = host.status().committed;
    let applying = timeout(APPLY_WAIT_MAX, until_applied(host, committed));
    applying.await.map_err(|_elapsed| LeaseError::ApplyTimeout)?;
    Ok(term)
}

async fn until_applied<H: Host>(host: &H, committed: u64) {
    let mut moves = host.applied_revisions();
    while host.applied().map_or(0, |at| at.index) < committed {
        tokio::select! {
            biased;
            _ = moves.changed() => {}
            () = sleep(APPLY_POLL) => {}
        }
    }
}
