//! Errors of the system as errors of the store.

use std::io;

use nix::errno::Errno;

use crate::store::error::ErrorKind;

/// What kind of error it is for who wants to read or write an object.
pub(super) fn kind(errno: Errno) -> ErrorKind {
    match errno {
        Errno::ENOENT => ErrorKind::NotFound,
        Errno::EEXIST => ErrorKind::AlreadyExists,
        Errno::EACCES | Errno::EPERM | Errno::EROFS => ErrorKind::Permission,
        Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG => ErrorKind::Full,
        Errno::ESTALE
        | Errno::ETIMEDOUT
        | Errno::EHOSTDOWN
        | Errno::EHOSTUNREACH
        | Errno::ENOTCONN
        | Errno::EREMOTEIO => ErrorKind::Unreachable,
        _ => ErrorKind::Other,
    }
}

/// The system's number of an error of the standard library.
pub(super) fn errno(error: &io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        assert_eq!(kind(Errno::ENOSPC), ErrorKind::Full);
        assert_eq!(kind(Errno::EDQUOT), ErrorKind::Full);
        assert_eq!(kind(Errno::EROFS), ErrorKind::Permission);
        assert_eq!(kind(Errno::ESTALE), ErrorKind::Unreachable);
        assert_eq!(kind(Errno::EIO), ErrorKind::Other);
        assert_eq!(errno(&io::Error::from_raw_os_error(28)), Errno::ENOSPC);
        assert_eq!(errno(&io::Error::other("x")), Errno::UnknownErrno);
    }
}
