//! [`FaultSignal`]: how any part of a member says that the member must stop.

use std::sync::Arc;

use kelson_storage::error::Fault;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The first fault of a member. Raised from any thread, awaited by whoever ends the process.
#[derive(Clone, Default)]
pub struct FaultSignal {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    fault: Mutex<Option<Fault>>,
    raised: Notify,
}

impl FaultSignal {
    /// Reports a fault. The first one counts; later ones are its consequences and are only logged.
    pub fn raise(&self, fault: Fault) {
        tracing::error!(error = %fault, "this member must stop");
        let mut first = self.inner.fault.lock();
        if first.is_none() {
            *first = Some(fault);
        }
        drop(first);
        // `notify_one` keeps a permit, so a waiter that comes later is not missed.
        self.inner.raised.notify_one();
    }

    /// Resolves with the fault once there is one. One waiter.
    pub async fn wait(&self) -> Fault {
        loop {
            if let Some(fault) = self.inner.fault.lock().take() {
                return fault;
            }
            self.inner.raised.notified().await;
        }
    }
}
