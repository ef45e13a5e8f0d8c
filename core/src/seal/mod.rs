//! What happens to bytes on their way into a store and back: compression, encryption, hashing.
//!
//! All of it are `Write`s around a `Write` and `Read`s around a `Read`, to be stacked: an object is hashed as it is stored,
//! encrypted beneath that, compressed beneath that. What comes out is an ordinary `.zst` file, or an ordinary `.age` file, so
//! that a backup can be read without varve.
//!
//! Errors of what lies beneath pass through as they are; [`SealError::from_io`] tells whose an [`std::io::Error`] is.

mod compress;
mod crypt;
mod decompress;
mod error;
mod frame;
mod hashed;
mod keys;
mod pool;

pub use compress::{CompressOptions, Compressed, Compressor};
pub use crypt::{Decryptor, Encryptor};
pub use decompress::{DecompressOptions, Decompressor};
pub use error::SealError;
pub use frame::{Covering, Frame, FrameTable, MAX_FRAME_BYTES};
pub use hashed::Hashed;
pub use keys::{IDENTITY_VARIABLE, Identities, Recipients};
