//! [`Images`]: snapshot images of the database in place, made off the runtime.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use kelson_storage::snapshot::ImageWriter;

use crate::storage_thread::StorageThread;

/// Opens images of the present durable checkpoint.
#[derive(Clone)]
pub(crate) struct Images {
    storage: StorageThread,
    open: Arc<dyn Fn() -> Result<ImageWriter, kelson_storage::error::Fault> + Send + Sync>,
}

impl Images {
    pub(crate) fn new(
        storage: StorageThread,
        open: Arc<dyn Fn() -> Result<ImageWriter, kelson_storage::error::Fault> + Send + Sync>,
    ) -> Self {
        Self { storage, open }
    }

    /// Forces a checkpoint and holds it for reading.
    pub(crate) async fn open(&self) -> io::Result<ImageWriter> {
        self.storage
            .checkpoint()
            .await
            .ok_or_else(|| io::Error::other("the storage thread has stopped"))?;
        let open = self.open.clone();
        blocking(move || open()).await
    }

    /// Reads the next frame; the image travels to the blocking thread and back.
    pub(crate) async fn next_frame(mut image: ImageWriter) -> io::Result<(ImageWriter, Option<Bytes>)> {
        blocking(move || {
            let frame = image.next_frame()?;
            Ok((image, frame))
        })
        .await
    }
}

/// Runs storage work that may touch the disk on a blocking thread.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, kelson_storage::error::Fault> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(fault)) => Err(io::Error::other(fault.to_string())),
        Err(error) => Err(io::Error::other(format!("interrupted: {error}"))),
    }
}
