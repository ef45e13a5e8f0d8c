//! Memory that frames are decompressed into, used again and again.

use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that nobody uses. A new one costs more than to fill one that was there: the system clears its pages one by one, and they are in
/// no cache.
#[derive(Clone, Debug, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer, which goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    /// What it holds.
    pub(super) bytes: Vec<u8>,
    home: Buffers,
}

impl Buffers {
    /// An empty buffer with room for so many bytes.
    pub(super) fn take(&self, bytes: usize) -> Buffer {
        let unused = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut taken = unused.unwrap_or_default();
        taken.clear();
        taken.reserve_exact(bytes);
        let home = self.clone();
        Buffer { bytes: taken, home }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut unused = self.home.0.lock().unwrap_or_else(PoisonError::into_inner);
        unused.push(bytes);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn used_again_when_nobody_looks() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take(100);
        buffer.bytes.extend([7; 100]);
        let at = buffer.bytes.as_ptr();
        let mut bytes = Bytes::from_owner(buffer);
        let part = bytes.split_off(40);
        drop(bytes);
        let mut other = buffers.take(100);
        assert_ne!(other.bytes.as_ptr(), at);
        other.bytes.extend([8; 100]);
        assert_eq!(part, [7; 60].as_slice());
        drop(part);
        let again = buffers.take(50);
        assert_eq!(again.bytes.as_ptr(), at);
        assert!(again.bytes.is_empty());
    }
}
