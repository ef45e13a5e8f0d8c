//! Encryption with age: <https://age-encryption.org/v1>.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::sync::mpsc::channel;

use age::secrecy::SecretString;
use age::stream::{StreamReader, StreamWriter};
use age::{DecryptError, Identity, scrypt};
use age_core::format::{FileKey, Stanza};

use super::error::SealError;
use super::keys::{Identities, Recipients, To};
use crate::wait::{Outcome, Tick, receive, spawn};

/// How much work a passphrase costs, as the logarithm of scrypt's N: 256 MiB of memory and about a second.
const WORK_FACTOR: u8 = 18;

/// The most work that a file may ask for: 1 GiB of memory.
const MAX_WORK_FACTOR: u8 = 20;

/// Longest header, in bytes: about 600 recipients.
const MAX_HEADER_BYTES: u64 = 64 << 10;

/// Encrypts what is written to it into what lies beneath: an ordinary `.age` file.
pub struct Encryptor<W: Write> {
    inner: StreamWriter<W>,
}

impl<W: Write> Encryptor<W> {
    /// Begins a file and writes its header. The tick is asked while a key is made of a passphrase.
    ///
    /// # Errors
    /// [`SealError::Cancelled`], [`SealError::System`], or what lies beneath answers.
    pub fn new(inner: W, to: &Recipients, tick: Tick<'_>) -> Result<Self, SealError> {
        let to = to.0.clone();
        let made = elsewhere(tick, move || match to {
            To::Keys(keys) => {
                age::Encryptor::with_recipients(keys.iter().map(|key| key as &dyn age::Recipient))
            }
            To::Passphrase(passphrase) => {
                let mut recipient = scrypt::Recipient::new(passphrase);
                recipient.set_work_factor(WORK_FACTOR);
                age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
            }
        })?;
        let encryptor = made.map_err(|error| SealError::key(error.to_string()))?;
        let inner = encryptor.wrap_output(inner).map_err(SealError::Io)?;
        Ok(Self { inner })
    }

    /// Writes the end of the file, without which it cannot be decrypted.
    ///
    /// # Errors
    /// What lies beneath answers.
    pub fn finish(self) -> Result<W, SealError> {
        self.inner.finish().map_err(SealError::Io)
    }
}

impl<W: Write> Write for Encryptor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Decrypts what it reads from beneath. What it gives was not changed by anybody, piece by piece of 64 KiB; that nothing is
/// missing at the end is known when the end was read.
pub struct Decryptor<R> {
    inner: StreamReader<Bounded<R>>,
    failed: bool,
}

impl<R: Read> Decryptor<R> {
    /// Reads the header. The tick is asked while a key is made of a passphrase.
    ///
    /// # Errors
    /// [`SealError::Key`] if it is encrypted to others, [`SealError::Corrupt`] if it is no such file,
    /// [`SealError::Cancelled`], [`SealError::System`], or what lies beneath answers.
    pub fn new(inner: R, identities: &Identities, tick: Tick<'_>) -> Result<Self, SealError> {
        let left = Rc::new(Cell::new(Some(MAX_HEADER_BYTES)));
        let bounded = Bounded {
            inner,
            left: Rc::clone(&left),
        };
        let decryptor = age::Decryptor::new(bounded).map_err(opened)?;
        left.set(None);
        let passphrase = identities.passphrase.clone().map(|passphrase| Patient {
            passphrase,
            tick,
            failed: RefCell::new(None),
        });
        let all = identities
            .keys
            .iter()
            .map(|key| key as &dyn Identity)
            .chain(passphrase.iter().map(|patient| patient as &dyn Identity));
        let decrypted = decryptor.decrypt(all);
        if let Some(error) = passphrase.and_then(|patient| patient.failed.into_inner()) {
            return Err(error);
        }
        Ok(Self {
            inner: decrypted.map_err(opened)?,
            failed: false,
        })
    }
}

impl<R: Read> Read for Decryptor<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.failed {
            return Err(SealError::system("reading the stream has failed before").into_io());
        }
        self.inner.read(buffer).map_err(|error| {
            self.failed = true;
            told(error).into_io()
        })
    }
}

/// A reader that ends with an error where a header has become too long.
struct Bounded<R> {
    inner: R,
    left: Rc<Cell<Option<u64>>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        if let Some(left) = self.left.get() {
            let left = left.checked_sub(got as u64).ok_or_else(|| {
                SealError::corrupt("the header of an encrypted file has no end").into_io()
            })?;
            self.left.set(Some(left));
        }
        Ok(got)
    }
}

/// A passphrase, of which another thread makes a key while the tick is asked.
struct Patient<'t> {
    passphrase: SecretString,
    tick: Tick<'t>,
    failed: RefCell<Option<SealError>>,
}

impl Identity for Patient<'_> {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        let passphrase = self.passphrase.clone();
        let stanza = Stanza {
            tag: stanza.tag.clone(),
            args: stanza.args.clone(),
            body: stanza.body.clone(),
        };
        let unwrapped = elsewhere(self.tick, move || {
            let mut identity = scrypt::Identity::new(passphrase);
            identity.set_max_work_factor(MAX_WORK_FACTOR);
            identity.unwrap_stanza(&stanza)
        });
        unwrapped.unwrap_or_else(|error| {
            self.failed.replace(Some(error));
            Some(Err(DecryptError::KeyDecryptionFailed))
        })
    }
}

/// Does something long on another thread, while the tick is asked.
fn elsewhere<T: Send + 'static>(
    tick: Tick<'_>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SealError> {
    let (sender, result) = channel();
    let run = move || {
        // Who wanted it may be gone.
        let _ = sender.send(work());
    };
    spawn("varve-seal", run)
        .map_err(|error| SealError::system(format!("no thread could be started: {error}")))?;
    match receive(&result, tick)? {
        Outcome::Sent(result) => Ok(result),
        Outcome::Gone => Err(SealError::system("a thread ended early")),
    }
}

/// What opening a file says.
fn opened(error: DecryptError) -> SealError {
    match error {
        DecryptError::Io(error) => told(error),
        DecryptError::NoMatchingKeys => {
            SealError::key("it is encrypted to others than the identities that were given")
        }
        DecryptError::KeyDecryptionFailed | DecryptError::DecryptionFailed => {
            SealError::key("the passphrase or key is not the right one, or the header is damaged")
        }
        DecryptError::ExcessiveWork { required, .. } => SealError::unsupported(format!(
            "its passphrase asks for work of 2^{required}, and at most 2^{MAX_WORK_FACTOR} is done"
        )),
        DecryptError::UnknownFormat => SealError::unsupported("it is of an unknown version of age"),
        _ => {
            SealError::corrupt("the header is not that of a file encrypted with age, or is damaged")
        }
    }
}

/// Whether age found something wrong, or the reader beneath it.
fn told(error: io::Error) -> SealError {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            if error.raw_os_error().is_none() =>
        {
            SealError::corrupt(format!("encrypted data is damaged or incomplete: {error}"))
        }
        _ => SealError::from_io(error),
    }
}
