//! Reading objects and listings.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use object_store::{GetOptions, GetRange, ObjectStoreExt};
use tokio::sync::Semaphore;

use super::call::Call;
use crate::store::error::{ErrorKind, StoreError};
use crate::store::flow::{Message, Piece};
use crate::store::handle::ObjectMeta;
use crate::store::key;

/// Bytes that one request asks for. Large enough that the way there and back does not count, small enough to be had again.
const RANGE_BYTES: u64 = 8 << 20;

/// Requests at once, and pieces that wait for the caller.
const AHEAD: usize = 3;

/// Objects of a message, and messages that wait for the caller.
const BATCH: usize = 1_000;
const BATCHES: usize = 2;

/// What a store says of an object.
pub(super) fn meta(key: String, meta: &object_store::ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        key,
        size: meta.size,
        modified: meta.last_modified.into(),
    }
}

/// Which object it is: another one under the same key differs in one of these.
#[derive(Debug, Clone, PartialEq)]
struct Version {
    size: u64,
    tag: Option<String>,
    modified: Option<SystemTime>,
}

/// What an answer says of the object.
struct Found {
    version: Version,
    bytes: Bytes,
}

/// Sends the object's size, then the object, or the range of it that is wanted, in pieces.
///
/// It is read in ranges, several at once; all but the first ask for the object that the first one found, so that an object
/// that is replaced meanwhile is noticed.
pub(super) async fn stream(
    call: Call,
    range: Option<Range<u64>>,
    size: Sender<Result<u64, StoreError>>,
    to: Sender<Message<Bytes>>,
) {
    let wanted = range.unwrap_or(0..u64::MAX);
    let begin = wanted.start;
    let found = match first(
        &call,
        begin..wanted.end.min(begin.saturating_add(RANGE_BYTES)),
    )
    .await
    {
        Ok(found) => found,
        Err(error) => {
            // If nobody listens any more, this task is about to be ended; the same holds below.
            let _ = size.send(Err(error));
            return;
        }
    };
    let _ = size.send(Ok(found.version.size));
    let end = wanted.end.min(found.version.size);
    let mut at = begin + found.bytes.len() as u64;
    let ranges = std::iter::from_fn(|| {
        let range = at..end.min(at.saturating_add(RANGE_BYTES));
        at = range.end;
        (range.start < range.end).then_some(range)
    });
    let first = stream::iter((!found.bytes.is_empty()).then(|| Ok(found.bytes.clone())));
    let fetched = stream::iter(ranges)
        .map(|range| fetch(&call, range, &found.version))
        .buffered(AHEAD);
    let mut pieces = std::pin::pin!(first.chain(fetched));
    let places = Arc::new(Semaphore::new(AHEAD));
    while let Some(piece) = pieces.next().await {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let message = piece.map(|value| {
            Some(Piece {
                value,
                _place: Some(Box::new(place)),
            })
        });
        let failed = message.is_err();
        if to.send(message).is_err() || failed {
            return;
        }
    }
    let _ = to.send(Ok(None));
}

async fn first(call: &Call, range: Range<u64>) -> Result<Found, StoreError> {
    let asked = call.again(|| get(call, range.clone(), None)).await;
    match asked {
        Ok(found) => Ok(found),
        // An empty object has no first byte, so that a range of it cannot be had.
        Err(error)
            if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Other)
                && range.start == 0 =>
        {
            let meta = call.again(|| call.client.head(&call.path)).await?;
            match meta.size {
                0 => Ok(Found {
                    version: Version {
                        size: 0,
                        tag: None,
                        modified: None,
                    },
                    bytes: Bytes::new(),
                }),
                _ => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

async fn fetch(call: &Call, range: Range<u64>, version: &Version) -> Result<Bytes, StoreError> {
    let found = call
        .again(|| get(call, range.clone(), version.tag.clone()))
        .await?;
    // Not every server minds the condition.
    if found.version != *version {
        let detail = "the object was replaced while it was read";
        return Err(call.error(ErrorKind::Corrupt, detail));
    }
    match found.bytes.len() as u64 == range.end - range.start {
        true => Ok(found.bytes),
        false => Err(call.error(ErrorKind::Corrupt, "the store answered with another range")),
    }
}

/// One request.
async fn get(call: &Call, range: Range<u64>, tag: Option<String>) -> object_store::Result<Found> {
    let len = range.end.saturating_sub(range.start);
    let options = GetOptions {
        range: Some(GetRange::Bounded(range)),
        if_match: tag,
        ..GetOptions::default()
    };
    let result = call.client.get_opts(&call.path, options).await?;
    let version = Version {
        size: result.meta.size,
        tag: result.meta.e_tag.clone(),
        modified: Some(result.meta.last_modified.into()),
    };
    let mut bytes = BytesMut::new();
    let mut pieces = result.into_stream();
    while let Some(piece) = pieces.next().await {
        bytes.extend_from_slice(&piece?);
        if bytes.len() as u64 > len {
            return Err(object_store::Error::Generic {
                store: "remote",
                source: "the store answered with more than was asked for".into(),
            });
        }
    }
    Ok(Found {
        version,
        bytes: bytes.freeze(),
    })
}

/// Sends the objects below the call's path, their keys without what all keys of the store begin with.
pub(super) async fn list(call: Call, strip: String, to: Sender<Message<Vec<ObjectMeta>>>) {
    let places = Arc::new(Semaphore::new(BATCHES));
    let below = Some(&call.path).filter(|path| !path.as_ref().is_empty());
    let mut pages = call.client.list(below).ready_chunks(BATCH);
    while let Some(page) = pages.next().await {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let objects: Result<Vec<_>, _> = page.into_iter().collect();
        let message = match objects {
            Ok(objects) => Ok(Some(Piece {
                value: objects
                    .iter()
                    .filter_map(|object| {
                        let key = object.location.as_ref().strip_prefix(&strip)?;
                        // Others may keep objects there whose names are no keys.
                        key::fault(key)
                            .is_none()
                            .then(|| meta(key.to_owned(), object))
                    })
                    .collect(),
                _place: Some(Box::new(place)),
            })),
            Err(error) => Err(call.failed(&error)),
        };
        let failed = message.is_err();
        // If nobody listens any more, this task is about to be ended; the same holds below.
        if to.send(message).is_err() || failed {
            return;
        }
    }
    let _ = to.send(Ok(None));
}
