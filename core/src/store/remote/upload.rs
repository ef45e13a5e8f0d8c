//! Writing objects of any size.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::time::Duration;

use bytes::Bytes;
use object_store::{MultipartUpload, ObjectMeta, ObjectStoreExt, PutPayload};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

use super::call::Call;
use crate::store::error::{ErrorKind, StoreError};
use crate::store::parts::MAX_PARTS;
use crate::store::writer::{Order, Progress};

/// Longest time that giving up an upload may take.
const ABORT: Duration = Duration::from_secs(10);

/// Bytes that are handed to the connection at once, so that one sees it move.
const SLICE_BYTES: usize = 256 << 10;

/// Bytes as the body of a request; they are not copied.
pub(super) fn payload(bytes: Bytes) -> PutPayload {
    let slices = (0..bytes.len()).step_by(SLICE_BYTES);
    slices
        .map(|begin| bytes.slice(begin..bytes.len().min(begin + SLICE_BYTES)))
        .collect()
}

/// What the writer wants. What comes while something else is waited for stays in order.
struct Orders {
    from: UnboundedReceiver<Order>,
    /// No more than a writer may have on its way.
    early: VecDeque<Order>,
}

impl Orders {
    /// The next order; none when the writer was dropped.
    async fn next(&mut self) -> Option<Order> {
        match self.early.pop_front() {
            Some(order) => Some(order),
            None => self.from.recv().await,
        }
    }

    /// Ends when the writer was dropped.
    async fn dropped(&mut self) {
        while let Some(order) = self.from.recv().await {
            self.early.push_back(order);
        }
    }
}

/// How an upload ended early.
enum Ended {
    /// The writer was dropped.
    Dropped,
    /// It failed.
    Failed(StoreError),
}

impl From<StoreError> for Ended {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// Writes what comes, until the end or until the sender is gone.
pub(super) async fn stream(
    call: Call,
    orders: UnboundedReceiver<Order>,
    progress: Sender<Result<Progress, StoreError>>,
) {
    let mut orders = Orders {
        from: orders,
        early: VecDeque::new(),
    };
    let news = match object(&call, &mut orders, &progress).await {
        Ok(()) => Ok(Progress::Done),
        Err(Ended::Failed(error)) => Err(error),
        Err(Ended::Dropped) => return,
    };
    // The writer waits for it, or is gone.
    let _ = progress.send(news);
}

async fn object(
    call: &Call,
    orders: &mut Orders,
    progress: &Sender<Result<Progress, StoreError>>,
) -> Result<(), Ended> {
    let first = match orders.next().await {
        Some(Order::Part(bytes)) => bytes,
        Some(Order::Finish(size)) => return whole(call, Bytes::new(), size, orders).await,
        None => return Err(Ended::Dropped),
    };
    let second = match orders.next().await {
        Some(Order::Part(bytes)) => bytes,
        // What fits into one part is written with one request.
        Some(Order::Finish(size)) => return whole(call, first, size, orders).await,
        None => return Err(Ended::Dropped),
    };
    let begun = call.again(|| call.client.put_multipart(&call.path));
    tokio::pin!(begun);
    let upload = tokio::select! {
        upload = &mut begun => upload?,
        () = orders.dropped() => {
            // The request is on its way, and makes an upload: that is given up as soon as its name is known.
            if let Ok(Ok(mut upload)) = tokio::time::timeout(ABORT, begun).await {
                abort(&mut upload).await;
            }
            return Err(Ended::Dropped);
        }
    };
    let mut parts = Parts {
        call,
        upload,
        running: JoinSet::new(),
        begun: 0,
        bytes: 0,
        progress,
    };
    let done = parts.all([first, second], orders).await;
    if done.is_err() {
        parts.give_up().await;
    }
    done
}

async fn whole(call: &Call, bytes: Bytes, size: u64, orders: &mut Orders) -> Result<(), Ended> {
    check_size(call, bytes.len() as u64, size)?;
    tokio::select! {
        done = call.put(payload(bytes)) => Ok(done?),
        () = orders.dropped() => Err(Ended::Dropped),
    }
}

/// What the writer counted must be what was sent.
fn check_size(call: &Call, sent: u64, size: u64) -> Result<(), StoreError> {
    match sent == size {
        true => Ok(()),
        false => Err(call.error(
            ErrorKind::Other,
            &format!("{sent} bytes were sent of {size}"),
        )),
    }
}

/// An upload in parts.
struct Parts<'a> {
    call: &'a Call,
    upload: Box<dyn MultipartUpload>,
    running: JoinSet<Result<usize, object_store::Error>>,
    begun: u64,
    /// Bytes of the parts that are there.
    bytes: u64,
    progress: &'a Sender<Result<Progress, StoreError>>,
}

impl Parts<'_> {
    async fn all(&mut self, first: [Bytes; 2], orders: &mut Orders) -> Result<(), Ended> {
        for bytes in first {
            self.begin(bytes)?;
        }
        let mut size = None;
        while size.is_none() || !self.running.is_empty() {
            tokio::select! {
                order = orders.next() => match order {
                    Some(Order::Part(bytes)) => self.begin(bytes)?,
                    Some(Order::Finish(all)) => size = Some(all),
                    None => return Err(Ended::Dropped),
                },
                Some(part) = self.running.join_next() => self.ended(part)?,
            }
        }
        check_size(self.call, self.bytes, size.unwrap_or_default())?;
        let size = self.bytes;
        tokio::select! {
            done = complete(self.call, &mut self.upload, size) => Ok(done?),
            () = orders.dropped() => Err(Ended::Dropped),
        }
    }

    fn begin(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        if self.begun == MAX_PARTS {
            let detail = "an object of that size cannot be written: it has more than 10,000 parts";
            return Err(self.call.error(ErrorKind::TooLarge, detail));
        }
        self.begun += 1;
        let len = bytes.len();
        let part = self.upload.put_part(payload(bytes));
        self.running.spawn(async move { part.await.map(|()| len) });
        Ok(())
    }

    fn ended(
        &mut self,
        part: Result<Result<usize, object_store::Error>, tokio::task::JoinError>,
    ) -> Result<(), Ended> {
        let bytes = part
            .map_err(|_| self.call.at.gone())?
            .map_err(|error| self.call.failed(&error))?;
        self.bytes += bytes as u64;
        match self.progress.send(Ok(Progress::Gone(bytes))) {
            Ok(()) => Ok(()),
            Err(_) => Err(Ended::Dropped),
        }
    }

    async fn give_up(&mut self) {
        self.running.shutdown().await;
        abort(&mut self.upload).await;
    }
}

/// Makes an object of the parts. Once that is done the upload is gone: who asks again, since he had no answer, is told that
/// there is none. So after a failure it is the object that counts: if it is not the one that was there before, it is ours.
async fn complete(
    call: &Call,
    upload: &mut Box<dyn MultipartUpload>,
    size: u64,
) -> Result<(), StoreError> {
    let before = found(call).await;
    let Err(error) = upload.complete().await else {
        return Ok(());
    };
    let error = call.failed(&error);
    match (before, found(call).await) {
        (Ok(before), Ok(Some(now))) if now.size == size && before != Some(now.clone()) => Ok(()),
        _ => Err(error),
    }
}

/// What is there under the key now.
async fn found(call: &Call) -> Result<Option<ObjectMeta>, StoreError> {
    match call.again(|| call.client.head(&call.path)).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives up an upload. What cannot be given up now stays in the bucket, unseen, until a rule of the bucket removes it.
async fn abort(upload: &mut Box<dyn MultipartUpload>) {
    let _ = tokio::time::timeout(ABORT, upload.abort()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_the_bytes() {
        for len in [0, 1, SLICE_BYTES, SLICE_BYTES + 1] {
            let bytes = Bytes::from((0..len).map(|i| (i % 251) as u8).collect::<Vec<_>>());
            assert_eq!(payload(bytes.clone()).content_length(), len);
            assert_eq!(Bytes::from(payload(bytes.clone())), bytes);
        }
    }
}
