//! pco, the numeric codec, for a count of numbers known beforehand.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pco::ChunkConfig;
use pco::standalone::{simple_compress, simple_decompress_into};

use super::number::Number;
use crate::error::CoreError;

pub(crate) fn compress<T: Number>(values: &[T]) -> Result<Vec<u8>, CoreError> {
    simple_compress(values, &ChunkConfig::default())
        .map_err(|error| CoreError::invalid(format!("pco could not compress: {error}")))
}

/// Decompresses exactly `count` numbers; the caller has checked `count` against the row limit.
///
/// pco checks what it reads, but it also asserts; a panic of its own on forged bytes that carry a
/// right checksum is reported like any other corruption.
pub(crate) fn decompress<T: Number>(stored: &[u8], count: usize) -> Result<Vec<T>, CoreError> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut values = vec![T::default(); count];
        simple_decompress_into(stored, &mut values).map(|progress| (values, progress))
    }));
    let (values, progress) = outcome
        .map_err(|_| CoreError::corrupt("pco gave up on the payload"))?
        .map_err(|error| CoreError::corrupt(format!("pco: {error}")))?;
    if progress.n_processed != count || !progress.finished {
        return Err(CoreError::corrupt(format!(
            "pco holds another number of values than {count}"
        )));
    }
    Ok(values)
}
