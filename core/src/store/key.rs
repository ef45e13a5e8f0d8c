//! Keys of objects: relative paths of plain components.

use super::error::{ErrorKind, StoreError};

/// Longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 700;

/// Longest component of a key, in bytes: file systems take 255.
const MAX_COMPONENT_BYTES: usize = 255;

/// The directory at the root of a `file://` store where objects lie until they are whole. No key begins with it.
pub(super) const TEMPORARY: &str = ".varve-tmp";

/// What is wrong with a key, if anything.
///
/// A key is `a/b/c`: components of ASCII letters, digits and `-_.+=,@:!()$&;` and spaces, none of them empty, `.` or `..`,
/// none longer than 255 bytes, all together at most [`MAX_KEY_BYTES`]; the first one is not `.varve-tmp`. These keys mean the
/// same to every store, are file names, and need no quoting in listings.
///
/// # Errors
/// [`ErrorKind::Config`], with the key and the rule that it breaks.
pub fn check_key(key: &str) -> Result<(), StoreError> {
    match fault(key) {
        None => Ok(()),
        Some(detail) => Err(StoreError::new(ErrorKind::Config, "", Some(key), detail)),
    }
}

/// The rule that a key breaks.
pub(super) fn fault(key: &str) -> Option<String> {
    if key.is_empty() {
        return Some("a key is not empty".to_owned());
    }
    if key.len() > MAX_KEY_BYTES {
        return Some(format!("a key has at most {MAX_KEY_BYTES} bytes"));
    }
    if key.split('/').next() == Some(TEMPORARY) {
        return Some(format!("no key begins with {TEMPORARY}"));
    }
    key.split('/').find_map(component_fault)
}

fn component_fault(component: &str) -> Option<String> {
    if component.is_empty() {
        return Some("a key has no empty component".to_owned());
    }
    if component == "." || component == ".." {
        return Some(format!("a key has no component \"{component}\""));
    }
    if component.len() > MAX_COMPONENT_BYTES {
        return Some(format!(
            "a component of a key has at most {MAX_COMPONENT_BYTES} bytes"
        ));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+=,@:!()$&; ".contains(c);
    let bad = component.chars().find(|c| !allowed(*c))?;
    Some(format!("a key has no {bad:?}"))
}

/// A prefix of a listing, without the `/` at its end; it is empty for everything.
pub(super) fn check_prefix(prefix: &str) -> Result<&str, StoreError> {
    let bare = prefix.strip_suffix('/').unwrap_or(prefix);
    if !bare.is_empty() {
        check_key(bare)?;
    }
    Ok(bare)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn good_and_bad_keys() {
        for key in [
            "a",
            "wal/0000000100000000000000A1.zst",
            "a/.b/c d",
            "x/.varve-tmp",
            "..a/b..",
        ] {
            assert_eq!(check_key(key), Ok(()), "{key}");
        }
        let long = "x".repeat(256);
        let longer = ["x".repeat(200).as_str(); 4].join("/");
        for key in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/../b",
            "a/./b",
            "a\\b",
            "a\0b",
            "a\nb",
            "ä",
            "a%2f",
            "a?b",
            "a#b",
            "a*b",
            ".varve-tmp/x",
            ".varve-tmp",
            &long,
            &longer,
        ] {
            let error = check_key(key).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{key:?}");
            assert_eq!(error.key(), Some(key));
        }
        assert_eq!(check_prefix(""), Ok(""));
        assert_eq!(check_prefix("a/b/"), Ok("a/b"));
        assert!(check_prefix("a//").is_err());
    }
}
