//! The edge where threads and tasks begin. Everything a member runs is started through here, so that a simulation
//! can start it elsewhere and a member's end can end it all.

use std::future::Future;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinSet};

/// Starts a named thread. The log and the storage thread are the only ones a member keeps.
pub fn spawn_thread(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}

/// The tasks of one owner: they stop with it.
#[derive(Clone, Default)]
pub struct Tasks {
    set: Arc<Mutex<JoinSet<()>>>,
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task on the current runtime. Finished ones are forgotten as new ones come.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let mut set = self.set.lock();
        while set.try_join_next().is_some() {}
        set.spawn(task)
    }

    /// Stops all tasks at their next await.
    pub fn abort_all(&self) {
        self.set.lock().abort_all();
    }
}
