//! [`Images`]: snapshot images of the database in place, made off the runtime.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use kelson_storage::snapshot::ImageWriter;

use crate::executor::Executor;
use crate::storage_thread::StorageThread;

/// Opens images of the present durable checkpoint.
#[derive(Clone)]
pub(crate) struct Images {
    storage: StorageThread,
    executor: Executor,
    open: Arc<dyn Fn() -> Result<ImageWriter, kelson_storage::error::Fault> + Send + Sync>,
}

impl Images {
    pub(crate) fn new(
        storage: StorageThread,
        executor: Executor,
        open: Arc<dyn Fn() -> Result<ImageWriter, kelson_storage::error::Fault> + Send + Sync>,
    ) -> Self {
        Self {
            storage,
            executor,
            open,
        }
    }

    /// Forces a checkpoint and holds it for reading.
    pub(crate) async fn open(&self) -> io::Result<ImageWriter> {
        self.storage
            .checkpoint()
            .await
            .ok_or_else(|| io::Error::other("the storage thread has stopped"))?;
        let open = self.open.clone();
        Ok(self.executor.blocking(move || open()).await?)
    }

    /// Reads the next frame; the image travels to the blocking thread and back.
    pub(crate) async fn next_frame(
        &self,
        mut image: ImageWriter,
    ) -> io::Result<(ImageWriter, Option<Bytes>)> {
        let read = self.executor.blocking(move || {
            let frame = image.next_frame()?;
            Ok((image, frame))
        });
        Ok(read.await?)
    }
}
