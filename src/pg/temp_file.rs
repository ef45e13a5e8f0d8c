//! Temporary files, as the server has them: `temp_file_limit` and `temp_tablespaces` are for them too, and the end of the transaction removes
//! what is left.

use pgrx::pg_sys;
use varve_core::change::Scratch;

/// A temporary file. It lives no longer than the memory context and the resource owner that are current when it is made.
pub struct TempFile(*mut pg_sys::BufFile);

impl TempFile {
    /// An empty one.
    pub fn new() -> Self {
        // SAFETY: inside a transaction.
        TempFile(unsafe { pg_sys::BufFileCreateTemp(false) })
    }
}

impl Default for TempFile {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch for TempFile {
    fn write(&mut self, bytes: &[u8]) {
        pgrx::check_for_interrupts!();
        // SAFETY: an open file, and as many bytes; errors are raised.
        unsafe { pg_sys::BufFileWrite(self.0, bytes.as_ptr().cast(), bytes.len()) };
    }

    fn rewind(&mut self) {
        // SAFETY: an open file.
        if unsafe { pg_sys::BufFileSeek(self.0, 0, 0, libc::SEEK_SET) } != 0 {
            pgrx::error!("a temporary file has no beginning");
        }
    }

    fn read(&mut self, to: &mut [u8]) -> usize {
        pgrx::check_for_interrupts!();
        // SAFETY: an open file, and room for as many bytes; errors are raised.
        unsafe { pg_sys::BufFileRead(self.0, to.as_mut_ptr().cast(), to.len()) }
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // After an error the resource owner closes it.
        if !std::thread::panicking() {
            // SAFETY: made by `new`, whose memory context still lives.
            unsafe { pg_sys::BufFileClose(self.0) };
        }
    }
}
