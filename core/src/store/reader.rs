//! Objects and listings as they come in.

use std::io::{self, Read};

use bytes::{Buf, Bytes};

use super::error::{ErrorKind, StoreError};
use super::flow::{Flow, Piece};
use super::handle::ObjectMeta;
use crate::wait::Tick;

/// An object that is read from its beginning to its end. What comes next is fetched ahead, in bounded memory.
///
/// An error of the store comes out of `read` inside an [`io::Error`]; [`StoreError::from_io`] gets it back. Dropping the
/// reader ends the fetching.
pub struct ObjectReader<'t> {
    flow: Flow<Bytes>,
    current: Option<Piece<Bytes>>,
    size: u64,
    left: u64,
    tick: Tick<'t>,
}

impl<'t> ObjectReader<'t> {
    pub(super) fn new(flow: Flow<Bytes>, size: u64, tick: Tick<'t>) -> Self {
        Self {
            flow,
            current: None,
            size,
            left: size,
            tick,
        }
    }

    /// Size of the object, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next bytes, as they came; none at the end, which is not before [`ObjectReader::size`] bytes have come.
    ///
    /// # Errors
    /// What the store answers; [`Corrupt`](ErrorKind::Corrupt) if the object ends early or goes on; see [`StoreError`].
    pub fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        if let Some(piece) = self.current.take() {
            return Ok(Some(piece.value));
        }
        Ok(self.piece()?.map(|piece| piece.value))
    }

    fn piece(&mut self) -> Result<Option<Piece<Bytes>>, StoreError> {
        let piece = self.flow.next(self.tick)?;
        let got = piece.as_ref().map_or(0, |piece| piece.value.len() as u64);
        let expected = match piece {
            Some(_) => got > 0 && got <= self.left,
            None => self.left == 0,
        };
        if !expected {
            let detail = format!("the object should have {} bytes and has not", self.size);
            return Err(self.flow.at().error(ErrorKind::Corrupt, detail));
        }
        self.left -= got;
        Ok(piece)
    }
}

impl Read for ObjectReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self
            .current
            .as_ref()
            .is_none_or(|piece| piece.value.is_empty())
        {
            self.current = None;
            self.current = self.piece().map_err(StoreError::into_io)?;
        }
        let Some(piece) = &mut self.current else {
            return Ok(0);
        };
        let take = piece.value.len().min(buffer.len());
        if let Some(to) = buffer.get_mut(..take) {
            piece.value.copy_to_slice(to);
        }
        Ok(take)
    }
}

/// The objects below a prefix, in ascending order of their keys' bytes. Ends after an error.
pub struct Listing<'t> {
    flow: Flow<Vec<ObjectMeta>>,
    current: std::vec::IntoIter<ObjectMeta>,
    tick: Tick<'t>,
}

impl<'t> Listing<'t> {
    pub(super) fn new(flow: Flow<Vec<ObjectMeta>>, tick: Tick<'t>) -> Self {
        Self {
            flow,
            current: Vec::new().into_iter(),
            tick,
        }
    }
}

impl Iterator for Listing<'_> {
    type Item = Result<ObjectMeta, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(object) = self.current.next() {
                return Some(Ok(object));
            }
            match self.flow.next(self.tick) {
                Ok(Some(piece)) => self.current = piece.value.into_iter(),
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
