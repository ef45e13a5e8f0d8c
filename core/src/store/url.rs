//! URLs of stores.

use std::fmt;

use super::error::StoreError;
use super::key;

/// Longest URL, in bytes.
const MAX_URL_BYTES: usize = 1_024;

/// Which kind of store a URL names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `file://`: a directory of a mounted file system.
    File,
    /// `s3://`: Amazon S3, and everything that speaks its protocol.
    S3,
    /// `gs://`: Google Cloud Storage.
    Gcs,
    /// `az://` or `azure://`: Azure Blob Storage.
    Azure,
}

impl Scheme {
    /// The name that is written before `://`.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
        }
    }
}

/// Where a store is: `file:///directory`, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`.
///
/// What follows the scheme is taken as it is written: nothing is percent-decoded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoreUrl {
    scheme: Scheme,
    /// Bucket or container; empty for files.
    bucket: String,
    /// Without a slash at either end; of a directory, without its first slash.
    path: String,
}

impl StoreUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// [`Config`](super::ErrorKind::Config) for an unknown scheme, a relative path, `..`, an empty bucket, a user, a port, a
    /// query or a fragment. The message repeats nothing that stands before an `@` or after a `?`.
    pub fn parse(url: &str) -> Result<Self, StoreError> {
        Self::parts(url).map_err(|detail| StoreError::config(shown(url), detail))
    }

    fn parts(url: &str) -> Result<Self, String> {
        if url.len() > MAX_URL_BYTES {
            return Err(format!("a URL has at most {MAX_URL_BYTES} bytes"));
        }
        let known = "known are file://, s3://, gs:// and az://";
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| format!("the URL has no scheme; {known}"))?;
        let scheme = match scheme {
            "file" => Scheme::File,
            "s3" => Scheme::S3,
            "gs" => Scheme::Gcs,
            "az" | "azure" => Scheme::Azure,
            other => return Err(format!("unknown scheme \"{other}\"; {known}")),
        };
        if let Some(bad) = rest.chars().find(|c| c.is_control()) {
            return Err(format!("the URL has a {bad:?} in it"));
        }
        if rest.contains(['?', '#']) {
            return Err(
                "a store's URL has no query and no fragment: say it with options".to_owned(),
            );
        }
        if scheme == Scheme::File {
            return Self::directory(rest);
        }
        let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
        check_bucket(scheme, bucket)?;
        let path = path.strip_suffix('/').unwrap_or(path);
        if !path.is_empty()
            && let Some(fault) = key::fault(path)
        {
            return Err(format!("the prefix is wrong: {fault}"));
        }
        Ok(Self {
            scheme,
            bucket: bucket.to_owned(),
            path: path.to_owned(),
        })
    }

    fn directory(rest: &str) -> Result<Self, String> {
        let path = rest
            .strip_prefix('/')
            .ok_or("a directory is written with its whole path: file:///directory")?;
        let path = path.strip_suffix('/').unwrap_or(path);
        if path.is_empty() {
            return Err("the root of the file system is no store".to_owned());
        }
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err("the path has an empty component, a \".\" or a \"..\"".to_owned());
        }
        Ok(Self {
            scheme: Scheme::File,
            bucket: String::new(),
            path: path.to_owned(),
        })
    }

    /// Which kind of store it is.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The bucket or container; empty for files.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What all keys in the bucket begin with, without a slash at either end; for files the directory, with its first slash.
    pub fn path(&self) -> String {
        match self.scheme {
            Scheme::File => format!("/{}", self.path),
            _ => self.path.clone(),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bucket, path, .. } = self;
        let slash = if path.is_empty() { "" } else { "/" };
        write!(f, "{}://{bucket}{slash}{path}", self.scheme.name())
    }
}

/// A URL that was refused, without the places where people put passwords.
fn shown(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let url = url.get(..end).unwrap_or_default();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let text: String = rest.chars().filter(|c| !c.is_control()).take(200).collect();
    match scheme {
        "" => text,
        _ => format!("{scheme}://{text}"),
    }
}

fn check_bucket(scheme: Scheme, bucket: &str) -> Result<(), String> {
    let what = match scheme {
        Scheme::Azure => "container",
        _ => "bucket",
    };
    if bucket.is_empty() {
        return Err(format!("the URL names no {what}"));
    }
    if bucket.contains('@') {
        return Err(
            "a store's URL has no user: credentials are options of the user mapping".to_owned(),
        );
    }
    if bucket.contains(':') {
        return Err(
            "a store's URL has no port: say where the server is with the option endpoint"
                .to_owned(),
        );
    }
    let allowed = |c: char| match scheme {
        Scheme::Azure => c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '$',
        _ => c.is_ascii_alphanumeric() || "-_.".contains(c),
    };
    if bucket.len() > 222
        || !bucket.chars().all(allowed)
        || bucket.contains("..")
        || bucket.starts_with('.')
    {
        return Err(format!("\"{bucket}\" is no name of a {what}"));
    }
    Ok(())
}
