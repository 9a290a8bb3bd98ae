//! The replies of a streaming call.

use std::future::Future;
use std::pin::Pin;

use tonic::{Response, Status, Streaming};

type Call<T> = Pin<Box<dyn Future<Output = Result<Response<Streaming<T>>, Status>> + Send>>;

/// A call that may not be answered before its first request has been sent.
///
/// A Go server sends the headers of a stream with its first reply. Whoever waits for the headers before
/// sending a request waits for ever, so the call is only driven when a reply is wanted.
pub enum Replies<T> {
    /// Not answered yet.
    Opening(Call<T>),
    /// Answered.
    Open(Box<Streaming<T>>),
}

impl<T> Replies<T> {
    /// The replies of `call`, which is not started before the first reply is asked for.
    pub fn of(
        call: impl Future<Output = Result<Response<Streaming<T>>, Status>> + Send + 'static,
    ) -> Replies<T> {
        Replies::Opening(Box::pin(call))
    }

    /// The next reply; `None` at the end of the stream.
    pub async fn next(&mut self) -> Result<Option<T>, Status> {
        if let Replies::Opening(call) = self {
            *self = Replies::Open(Box::new(call.await?.into_inner()));
        }
        match self {
            Replies::Open(stream) => stream.message().await,
            Replies::Opening(_) => unreachable!("opened above"),
        }
    }
}
