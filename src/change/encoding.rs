//! Text in UTF-8, whatever the encodings of the server and of the client are.

use pgrx::pg_sys;
use std::ffi::CStr;

const UTF8: i32 = pg_sys::pg_enc::PG_UTF8 as i32;
const ASCII: i32 = pg_sys::pg_enc::PG_SQL_ASCII as i32;

/// What the database keeps text in.
#[derive(Clone, Copy)]
pub struct Encoding(i32);

impl Encoding {
    /// That of this database, for as long as the process lives.
    pub fn of_database() -> Self {
        // SAFETY: known once the process is connected.
        Encoding(unsafe { pg_sys::GetDatabaseEncoding() })
    }

    /// Whether its text is taken as it is. Nobody knows what SQL_ASCII is an encoding of.
    pub fn as_is(self) -> bool {
        self.0 == UTF8 || self.0 == ASCII
    }

    /// Hands on a text of the database's in UTF-8.
    #[inline]
    pub fn utf8<T>(self, text: &[u8], f: impl FnOnce(&[u8]) -> T) -> T {
        match self.as_is() || text.is_ascii() {
            true => f(text),
            false => converted(text, f),
        }
    }

    /// Runs `f`, in which send functions send text in UTF-8 (SQL_ASCII as it is).
    pub fn sending<T>(self, f: impl FnOnce() -> T) -> T {
        let wanted = if self.0 == ASCII { ASCII } else { UTF8 };
        // SAFETY: asks the process' state.
        let client = unsafe { pg_sys::pg_get_client_encoding() };
        if client == wanted {
            return f();
        }
        // The setting itself must not be changed: parallel workers may not.
        // SAFETY: looks the conversion up, in a transaction.
        let there = unsafe { pg_sys::PrepareClientEncoding(wanted) == 0 };
        let _back = Client(client);
        // SAFETY: prepared, as far as there is one.
        if !there || unsafe { pg_sys::SetClientEncoding(wanted) } != 0 {
            pgrx::error!("there is no conversion from the database's encoding to UTF8");
        }
        f()
    }
}

/// Puts back the client's encoding, however the call ends: what the client is told of an error is in it.
struct Client(i32);

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: an encoding that was set before, whose conversion is still prepared; raises no error.
        unsafe { pg_sys::SetClientEncoding(self.0) };
    }
}

#[cold]
fn converted<T>(text: &[u8], f: impl FnOnce(&[u8]) -> T) -> T {
    // SAFETY: the function reads so many bytes; what it makes of them ends with a NUL, and is ours.
    unsafe {
        let from = text.as_ptr().cast::<std::ffi::c_char>();
        let made = pg_sys::pg_server_to_any(from, text.len() as i32, UTF8);
        if std::ptr::eq(made, from) {
            return f(text);
        }
        let result = f(CStr::from_ptr(made).to_bytes());
        pg_sys::pfree(made.cast());
        result
    }
}
