//! A request to a store, and trying it again.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

use super::errors;
use crate::store::error::{At, ErrorKind, StoreError};
use crate::store::secret::Scrubber;

/// Longest time between two tries.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Time between the first two tries.
pub(super) const INIT_BACKOFF: Duration = Duration::from_millis(100);

/// How often and how long something is tried again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retries {
    pub(super) most: usize,
    pub(super) within: Duration,
}

/// All that a request needs.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) client: Arc<dyn ObjectStore>,
    pub(super) path: Path,
    pub(super) at: At,
    pub(super) scrubber: Arc<Scrubber>,
    pub(super) retries: Retries,
}

impl Call {
    /// What went wrong, without secrets.
    pub(super) fn failed(&self, error: &object_store::Error) -> StoreError {
        let (kind, detail) = errors::told(error, &self.scrubber);
        self.error(kind, &detail)
    }

    pub(super) fn error(&self, kind: ErrorKind, detail: &str) -> StoreError {
        self.at.error(kind, self.scrubber.scrub(detail))
    }

    pub(super) async fn put(&self, payload: PutPayload) -> Result<(), StoreError> {
        self.again(|| self.client.put(&self.path, payload.clone()))
            .await
            .map(drop)
    }

    /// Tries something that may be done twice until it works, fails for good, or the time is over. `object_store` tries
    /// requests again by itself; this is for what it takes for final: a connection lost amid an answer, or before an upload
    /// had a number.
    pub(super) async fn again<T, F>(&self, mut request: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, object_store::Error>>,
    {
        let began = Instant::now();
        let mut tries = 0;
        loop {
            let error = match request().await {
                Ok(answer) => return Ok(answer),
                Err(error) => self.failed(&error),
            };
            let over = tries >= self.retries.most || began.elapsed() >= self.retries.within;
            if over || error.kind() != ErrorKind::Unreachable {
                return Err(error);
            }
            tokio::time::sleep(backoff(tries)).await;
            tries += 1;
        }
    }
}

/// Doubles with every try; half of it is chance, so that many clients do not come back at the same moment.
fn backoff(tries: usize) -> Duration {
    let doubled = u32::try_from(tries)
        .ok()
        .and_then(|tries| 2_u32.checked_pow(tries))
        .and_then(|factor| INIT_BACKOFF.checked_mul(factor))
        .map_or(MAX_BACKOFF, |wait| wait.min(MAX_BACKOFF));
    let chance = RandomState::new().hash_one(tries) % 1_000;
    doubled / 2 + doubled.mul_f64(chance as f64 / 2_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_are_bounded() {
        for tries in [0, 1, 5, 31, 32, 64, usize::MAX] {
            let wait = backoff(tries);
            assert!(
                wait >= INIT_BACKOFF / 2 && wait <= MAX_BACKOFF,
                "{tries}: {wait:?}"
            );
        }
        assert!(backoff(0) <= INIT_BACKOFF);
        assert!(backoff(64) >= MAX_BACKOFF / 2);
    }
}
