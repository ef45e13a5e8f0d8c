//! What remote stores say when something goes wrong.

use std::error::Error;

use object_store::client::{HttpError, HttpErrorKind};

use crate::store::error::ErrorKind;
use crate::store::secret::Scrubber;

/// Longest message, in characters: servers send whole documents.
const MAX_CHARS: usize = 1_500;

/// The kind of an error and its message, without the secrets that are known: a message is cut only then, since a part of a
/// secret would not be found.
pub(super) fn told(error: &object_store::Error, scrubber: &Scrubber) -> (ErrorKind, String) {
    let text = scrubber.scrub(&text(error));
    let kind = kind(error, &text);
    let mut short: String = text.chars().take(MAX_CHARS).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    (kind, short.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn kind(error: &object_store::Error, text: &str) -> ErrorKind {
    use object_store::Error as Remote;
    if text.contains("NoSuchBucket") || text.contains("ContainerNotFound") {
        return ErrorKind::Config;
    }
    match error {
        Remote::NotFound { .. } => ErrorKind::NotFound,
        Remote::AlreadyExists { .. } => ErrorKind::AlreadyExists,
        // The object was replaced while it was read; who writes on condition gets AlreadyExists.
        Remote::Precondition { .. } | Remote::NotModified { .. } => ErrorKind::Corrupt,
        Remote::PermissionDenied { .. } | Remote::Unauthenticated { .. } => ErrorKind::Permission,
        Remote::InvalidPath { .. } | Remote::UnknownConfigurationKey { .. } => ErrorKind::Config,
        _ => status(text).unwrap_or_else(|| transport(error)),
    }
}

/// What the server answered, where that is known only by the message.
fn status(text: &str) -> Option<ErrorKind> {
    let (_, rest) = text.split_once("status code: ")?;
    let code: u16 = rest.get(..3)?.parse().ok()?;
    let credentials = [
        "InvalidAccessKeyId",
        "ExpiredToken",
        "InvalidToken",
        "AuthorizationHeaderMalformed",
    ];
    Some(match code {
        401 | 403 => ErrorKind::Permission,
        400 if credentials.iter().any(|code| text.contains(code)) => ErrorKind::Permission,
        416 => ErrorKind::Corrupt,
        507 => ErrorKind::Full,
        _ if text.contains("QuotaExceeded") => ErrorKind::Full,
        408 | 429 | 500.. => ErrorKind::Unreachable,
        _ => ErrorKind::Other,
    })
}

/// What became of the connection.
fn transport(error: &object_store::Error) -> ErrorKind {
    let mut source: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = source {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return match http.kind() {
                HttpErrorKind::Connect
                | HttpErrorKind::Request
                | HttpErrorKind::Timeout
                | HttpErrorKind::Interrupted => ErrorKind::Unreachable,
                _ => ErrorKind::Other,
            };
        }
        source = error.source();
    }
    ErrorKind::Other
}

/// The message with those of its causes that it does not repeat.
pub(super) fn text(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}
