//! The edge where threads and tasks begin. Everything a member runs is started through here, so that a simulation
//! can run it elsewhere and a member's end can end it all.
//!
//! A member in earnest has tasks on the current runtime, blocking work on that runtime's pool, and one thread for each
//! [`Worker`]. A simulated one has everything as tasks of its [`Life`].

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kelson_storage::error::Fault;
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

use crate::background;
use crate::life::Life;

/// Where a member's tasks, workers and blocking calls run. The default is a member in earnest.
#[derive(Clone, Default)]
pub struct Executor {
    life: Option<Arc<Life>>,
}

impl Executor {
    /// Everything runs as tasks of `life`, which can be ended and stopped at any time.
    pub fn simulated(life: Arc<Life>) -> Self {
        Self { life: Some(life) }
    }

    /// An empty set of tasks that run here.
    pub fn tasks(&self) -> Tasks {
        Tasks {
            life: self.life.clone(),
            set: Arc::default(),
        }
    }

    /// Polls `future` as a part of the member, so that what it starts belongs to the member too.
    pub async fn within<F>(&self, future: F) -> F::Output
    where
        F: Future + Send,
        F::Output: Send,
    {
        match &self.life {
            None => future.await,
            Some(life) => life.clone().live(future).await,
        }
    }

    /// Runs work that may touch the disk, off the runtime. A simulation has nothing else to do meanwhile.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Blocked> {
        if self.life.is_some() {
            return work().map_err(Blocked::Fault);
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done.map_err(Blocked::Fault),
            Err(error) => Err(Blocked::Interrupted(error.to_string())),
        }
    }

    /// A number that differs each time, to seed chance with.
    pub(crate) fn random(&self) -> u64 {
        self.life.as_ref().map_or_else(rand::random, |life| life.random())
    }

    /// What wakes a worker that will be started here.
    pub(crate) fn bell(&self) -> Bell {
        match self.life {
            None => Bell::Thread(Condvar::new()),
            Some(_) => Bell::Task(Notify::new()),
        }
    }

    /// Starts a worker: a thread of its own, named `name`.
    pub(crate) fn start(&self, name: &str, worker: impl Worker) -> Result<Running, Fault> {
        match &self.life {
            None => std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || run_thread(worker))
                .map(Running::Thread)
                .map_err(|source| Fault::io("start thread", std::path::Path::new(name), source)),
            Some(life) => Ok(Running::Task(life.spawn(run_task(worker, life.clone())))),
        }
    }
}

/// Why blocking work has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Blocked {
    /// The work failed.
    #[error("{0}")]
    Fault(Fault),
    /// The runtime is ending, or the work panicked.
    #[error("interrupted: {0}")]
    Interrupted(String),
}

impl From<Blocked> for io::Error {
    fn from(blocked: Blocked) -> Self {
        Self::other(blocked.to_string())
    }
}

/// Something that has a thread of its own because it waits for the disk.
pub(crate) trait Worker: Send + 'static {
    /// Does some of what there is to do. Waits for nothing but the disk.
    fn step(&mut self) -> Next;
    /// Blocks the thread until there is something to do, or for `limit`.
    fn wait(&self, limit: Option<Duration>);
    /// What is rung when there is something to do.
    fn bell(&self) -> &Bell;
    /// Whether nobody waits for it most of the time, so that its thread had better let others go first.
    fn is_background(&self) -> bool {
        false
    }
}

/// What a worker wants after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another step.
    Again,
    /// To be woken, at the latest after so long.
    Wait(Option<Duration>),
    /// Nothing more.
    End,
}

/// Wakes a worker.
pub(crate) enum Bell {
    Thread(Condvar),
    Task(Notify),
}

impl Bell {
    /// Wakes the worker, or makes its next wait short.
    pub(crate) fn ring(&self) {
        match self {
            Self::Thread(condvar) => {
                condvar.notify_one();
            }
            Self::Task(notify) => notify.notify_one(),
        }
    }

    /// Blocks a worker's thread. What it waits for must be looked at under `guard` before.
    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>, limit: Option<Duration>) {
        let Self::Thread(condvar) = self else {
            unreachable!("only threads block, and a worker's bell comes from the executor that runs it");
        };
        match limit {
            Some(limit) => {
                condvar.wait_for(guard, limit);
            }
            None => condvar.wait(guard),
        }
    }

    async fn rung(&self) {
        match self {
            Self::Thread(_) => unreachable!("only simulated workers await their bell"),
            Self::Task(notify) => notify.notified().await,
        }
    }
}

fn run_thread(mut worker: impl Worker) {
    if worker.is_background()
        && let Err(error) = background::give_way()
    {
        tracing::debug!(%error, "the system does not let this thread give way to others");
    }
    loop {
        match worker.step() {
            Next::Again => {}
            Next::Wait(limit) => worker.wait(limit),
            Next::End => return,
        }
    }
}

/// The same with virtual time: a step itself takes none, so the time it would have waited for the disk comes before it.
async fn run_task(mut worker: impl Worker, life: Arc<Life>) {
    loop {
        match worker.step() {
            Next::Again => {}
            Next::Wait(None) => worker.bell().rung().await,
            // Woken or not, it goes on.
            Next::Wait(Some(limit)) => {
                let _ = tokio::time::timeout(limit, worker.bell().rung()).await;
            }
            Next::End => return,
        }
        tokio::time::sleep(life.disk_latency()).await;
    }
}

/// A worker that has been started.
pub(crate) enum Running {
    Thread(std::thread::JoinHandle<()>),
    Task(tokio::task::JoinHandle<()>),
}

impl Running {
    /// Waits until the worker has ended, which somebody must have told it to. Says whether it ended in order.
    pub(crate) async fn ended(self) -> bool {
        match self {
            Self::Thread(thread) => tokio::task::spawn_blocking(move || thread.join().is_ok())
                .await
                .unwrap_or(false),
            Self::Task(task) => task.await.is_ok(),
        }
    }
}

/// The tasks of one owner: they stop with it.
#[derive(Clone)]
pub struct Tasks {
    life: Option<Arc<Life>>,
    set: Arc<Mutex<JoinSet<()>>>,
}

impl Tasks {
    /// Starts a task on the current runtime. Finished ones are forgotten as new ones come.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let mut set = self.set.lock();
        while set.try_join_next().is_some() {}
        match &self.life {
            None => set.spawn(task),
            Some(life) => set.spawn(life.clone().live(task)),
        }
    }

    /// Stops all tasks at their next await.
    pub fn abort_all(&self) {
        self.set.lock().abort_all();
    }
}
