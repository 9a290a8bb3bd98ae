//! [`Life`]: one life of a simulated member, from start to crash. Whatever the member starts belongs to it, so that a
//! crash can end all of it between two polls, and a stop (as SIGSTOP does it) can hold all of it.
//!
//! openraft starts tasks and draws random numbers through static functions that know no member. So each future of a
//! life, while it is polled, names the life in a thread-local, and those functions ask there.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinHandle};

thread_local! {
    /// Whose future is being polled on this thread.
    static LIVING: RefCell<Option<Arc<Life>>> = const { RefCell::new(None) };
}

/// Tasks kept in the list before finished ones are looked for.
const TASKS_MIN: usize = 64;

/// See the module.
pub struct Life {
    state: Mutex<State>,
    disk_latency: Box<dyn Fn() -> Duration + Send + Sync>,
}

struct State {
    random: u64,
    tasks: Vec<AbortHandle>,
    /// Length of `tasks` at which finished ones are dropped.
    tidy_at: usize,
    ended: bool,
    stopped: bool,
    /// Futures that wanted to be polled while the member was stopped.
    held: Vec<Waker>,
}

impl Life {
    /// A life whose chance comes from `seed` and whose workers wait `disk_latency()` before each step.
    pub fn new(seed: u64, disk_latency: impl Fn() -> Duration + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                random: seed,
                tasks: Vec::new(),
                tidy_at: TASKS_MIN,
                ended: false,
                stopped: false,
                held: Vec::new(),
            }),
            disk_latency: Box::new(disk_latency),
        })
    }

    /// Ends everything: nothing of it is polled again.
    pub fn end(&self) {
        let tasks = {
            let mut state = self.state.lock();
            state.ended = true;
            std::mem::take(&mut state.tasks)
        };
        for task in tasks {
            task.abort();
        }
    }

    /// Stops everything, until [`Life::go_on`]. Time goes on.
    pub fn stop(&self) {
        self.state.lock().stopped = true;
    }

    /// Ends a stop.
    pub fn go_on(&self) {
        let held = {
            let mut state = self.state.lock();
            state.stopped = false;
            std::mem::take(&mut state.held)
        };
        for waker in held {
            waker.wake();
        }
    }

    /// The life of the future that is being polled on this thread.
    pub(crate) fn current() -> Option<Arc<Self>> {
        LIVING.with_borrow(Clone::clone)
    }

    /// Starts a task of this life.
    pub(crate) fn spawn<F>(self: &Arc<Self>, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        #[expect(
            clippy::disallowed_methods,
            reason = "an edge: the life is the owner of the task"
        )]
        let task = tokio::spawn(self.clone().live(future));
        let mut state = self.state.lock();
        if state.tasks.len() >= state.tidy_at {
            state.tasks.retain(|task| !task.is_finished());
            state.tidy_at = (2 * state.tasks.len()).max(TASKS_MIN);
        }
        state.tasks.push(task.abort_handle());
        drop(state);
        task
    }

    /// `future` as a part of this life.
    pub(crate) fn live<F: Future>(self: Arc<Self>, future: F) -> Living<F> {
        Living {
            life: self,
            future: Box::pin(future),
        }
    }

    pub(crate) fn disk_latency(&self) -> Duration {
        (self.disk_latency)()
    }

    /// A number of this life's own chance (splitmix64).
    pub(crate) fn random(&self) -> u64 {
        let mut state = self.state.lock();
        state.random = state.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Whether a future may be polled; if not, `waker` is kept for later.
    fn may_run(&self, waker: &Waker) -> bool {
        let mut state = self.state.lock();
        if state.stopped && !state.ended {
            state.held.push(waker.clone());
        }
        !state.stopped && !state.ended
    }
}

/// A future that is polled as a part of its life, and not at all while the life is stopped or has ended.
pub(crate) struct Living<F> {
    life: Arc<Life>,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Living<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if !self.life.may_run(context.waker()) {
            return Poll::Pending;
        }
        let _named = Named::new(&self.life);
        self.future.as_mut().poll(context)
    }
}

/// Names a life for as long as it exists, also when a poll panics.
struct Named {
    before: Option<Arc<Life>>,
}

impl Named {
    fn new(life: &Arc<Life>) -> Self {
        Self {
            before: LIVING.replace(Some(life.clone())),
        }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        LIVING.set(self.before.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life() -> Arc<Life> {
        Life::new(7, || Duration::ZERO)
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_task_starts_ends_with_the_life() {
        let life = life();
        let counted = Arc::new(Mutex::new(0));
        let count = counted.clone();
        let forever = async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                *count.lock() += 1;
            }
        };
        let outer = life.spawn(async move {
            let own = Life::current().expect("polled as a part of the life");
            [own.spawn(forever)]
        });
        let [inner] = outer.await.unwrap();
        assert!(Life::current().is_none());
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(*counted.lock(), 2);
        life.end();
        assert!(inner.await.unwrap_err().is_cancelled());
        assert_eq!(*counted.lock(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_life_goes_on_where_it_was() {
        let life = life();
        let start = tokio::time::Instant::now();
        let task = life.spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            start.elapsed()
        });
        tokio::task::yield_now().await;
        life.stop();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!task.is_finished());
        life.go_on();
        assert_eq!(task.await.unwrap().as_secs(), 5);
    }
}
