//! Values that are never shown.

use std::fmt;

/// A value that prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a value that must not be shown.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for who must send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Takes secrets out of messages.
#[derive(Clone, Default)]
pub(super) struct Scrubber {
    /// Longest first, so that a secret that holds another one goes as a whole.
    values: Vec<String>,
}

impl Scrubber {
    /// Knows the given secrets as they are, as they stand in URLs, and line by line and quoted string by quoted string
    /// (a service account's key is a JSON document of several lines).
    pub(super) fn new<'s>(secrets: impl IntoIterator<Item = &'s str>) -> Self {
        let mut values = Vec::new();
        for secret in secrets {
            add(&mut values, secret);
            // A document or a token with parts: each part that is long enough to mean something.
            for part in secret
                .split(['\n', '"', '&', '='])
                .filter(|p| p.len() >= 16)
            {
                add(&mut values, part);
                add(&mut values, &part.replace("\\n", "\n"));
            }
        }
        values.retain(|value| !value.is_empty());
        values.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        Self { values }
    }

    /// The message without secrets, and without what URLs in it have after their `?`: signatures stand there.
    pub(super) fn scrub(&self, message: &str) -> String {
        let mut message = without_queries(message);
        for value in &self.values {
            if message.contains(value.as_str()) {
                message = message.replace(value.as_str(), "***");
            }
        }
        message
    }
}

impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scrubber({} values)", self.values.len())
    }
}

fn add(values: &mut Vec<String>, value: &str) {
    let value = value.trim();
    values.push(value.to_owned());
    let encoded = url_encoded(value);
    values.push(encoded.to_lowercase());
    values.push(encoded);
    // As Debug output has it.
    values.push(value.escape_debug().to_string());
}

fn url_encoded(value: &str) -> String {
    let mut out = String::new();
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn without_queries(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        let end = tail
            .find(|c: char| c.is_whitespace() || "\"'<>)".contains(c))
            .unwrap_or(tail.len());
        let (url, after) = tail.split_at(end);
        match url.split_once('?') {
            Some((path, _)) => {
                out.push_str(path);
                out.push_str("?***");
            }
            None => out.push_str(url),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_however_they_stand() {
        let scrubber = Scrubber::new([
            "abc/def+ghi=",
            "abc/def",
            "",
            "{\"private_key\": \"0123456789abcdef\"}",
        ]);
        for (message, expected) in [
            ("key abc/def+ghi= is wrong", "key *** is wrong"),
            ("key abc/def is wrong", "key *** is wrong"),
            ("key abc%2Fdef%2Bghi%3D is wrong", "key *** is wrong"),
            ("key abc%2fdef%2bghi%3d is wrong", "key *** is wrong"),
            ("of 0123456789abcdef.", "of ***."),
            (
                "GET http://host/a?sig=xyz failed",
                "GET http://host/a?*** failed",
            ),
            (
                "(http://host/a?sig=xyz), (s3://b/c)",
                "(http://host/a?***), (s3://b/c)",
            ),
            ("nothing? here", "nothing? here"),
        ] {
            assert_eq!(scrubber.scrub(message), expected);
        }
        assert_eq!(format!("{0} {0:?}", Secret::new("x")), "*** ***");
        assert!(!format!("{scrubber:?}").contains("abc"));
    }
}
