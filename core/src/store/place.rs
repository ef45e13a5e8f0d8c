//! Where a store is, whatever it is called.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a store is: of two stores with one place, one is enough. It holds no secret and may be shown.
///
/// Hosts are compared by their names: an address and a name that leads to it are two places.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StorePlace {
    /// The URL; a directory's has no symbolic links in it.
    url: String,
    service: Option<Service>,
}

impl StorePlace {
    /// The place of a directory, by its path without symbolic links.
    pub(super) fn directory(path: &Path) -> Self {
        Self {
            url: format!("file://{}", path.display()),
            service: None,
        }
    }

    /// The place of a bucket or container, by its URL and what serves it.
    pub(super) fn remote(url: &str, service: &Service) -> Self {
        Self {
            url: url.to_owned(),
            service: Some(service.clone()),
        }
    }

    /// What serves it and fails as one: the server, and the account where there are accounts. None for a directory, whose
    /// file system does.
    pub fn service(&self) -> Option<String> {
        self.service.as_ref().map(Service::to_string)
    }
}

impl fmt::Display for StorePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.service {
            None => f.write_str(&self.url),
            Some(service) => write!(f, "{} at {service}", self.url),
        }
    }
}

/// What serves a remote store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Service {
    endpoint: String,
    account: Option<String>,
}

impl Service {
    /// A server by its URL, and an account of it.
    pub(super) fn new(endpoint: &str, account: Option<String>) -> Self {
        Self {
            endpoint: plain(endpoint),
            account: account.map(|account| account.to_ascii_lowercase()),
        }
    }

    /// A server of S3's protocol. Where the bucket stands in the host's name, it is taken out.
    pub(super) fn s3(endpoint: &str, hosted: Option<&str>) -> Self {
        let endpoint = plain(endpoint);
        let (scheme, rest) = endpoint.split_once("://").unwrap_or(("", &endpoint));
        let bucket = hosted.map(|bucket| format!("{}.", bucket.to_ascii_lowercase()));
        let rest = bucket.and_then(|b| rest.strip_prefix(&b)).unwrap_or(rest);
        Self {
            endpoint: format!("{scheme}://{}", amazon(rest)),
            account: None,
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.account {
            None => f.write_str(&self.endpoint),
            Some(account) => write!(f, "{}, account {account}", self.endpoint),
        }
    }
}

/// The path without symbolic links. Of a directory that is not there, the part that is.
pub(super) fn resolved(path: &Path) -> PathBuf {
    let there = path
        .ancestors()
        .find_map(|above| Some((above, above.canonicalize().ok()?)));
    match there {
        Some((above, resolved)) => match path.strip_prefix(above) {
            Ok(rest) if !rest.as_os_str().is_empty() => resolved.join(rest),
            _ => resolved,
        },
        None => path.to_owned(),
    }
}

/// The URL of a server in one spelling of those that mean the same, without what people put passwords into.
fn plain(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let url = url.get(..end).unwrap_or_default();
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let scheme = scheme.to_ascii_lowercase();
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let authority = authority.rsplit_once('@').map_or(authority, |(_, a)| a);
    let host = authority.to_ascii_lowercase();
    let default = match scheme.as_str() {
        "http" => ":80",
        _ => ":443",
    };
    let host = host.strip_suffix(default).unwrap_or(&host);
    let host = host.strip_suffix(':').unwrap_or(host);
    let host = match host.rsplit_once(':') {
        // A colon within brackets is part of an address.
        Some((name, port)) if !port.contains(']') => {
            format!("{}:{port}", name.strip_suffix('.').unwrap_or(name))
        }
        _ => host.strip_suffix('.').unwrap_or(host).to_owned(),
    };
    format!("{scheme}://{host}{}", path.trim_end_matches('/'))
}

/// The host of a region of Amazon's, where one of its other names is given.
fn amazon(host: &str) -> String {
    let name = host.strip_suffix(".amazonaws.com");
    let region = name.and_then(|name| match name {
        "s3" => Some("us-east-1"),
        _ => ["s3.dualstack.", "s3-fips.dualstack.", "s3-fips.", "s3."]
            .iter()
            .find_map(|front| name.strip_prefix(front)),
    });
    match region {
        Some(region) => format!("s3.{region}.amazonaws.com"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        for (url, expected) in [
            ("https://Host.Example/", "https://host.example"),
            ("HTTPS://host.example:443", "https://host.example"),
            ("https://host.example.:443//", "https://host.example"),
            ("http://host.example:80/Path/", "http://host.example/Path"),
            ("http://host.example:443", "http://host.example:443"),
            ("https://host.example:80", "https://host.example:80"),
            ("https://host.example:9000/", "https://host.example:9000"),
            ("https://[FE80::1]:9000", "https://[fe80::1]:9000"),
            ("https://[::1]:443/", "https://[::1]"),
            ("https://user:hunter2@host/?sig=hunter2#x", "https://host"),
            ("host.example", "https://host.example"),
        ] {
            assert_eq!(plain(url), expected, "{url}");
        }
    }

    #[test]
    fn names_of_a_region() {
        for host in [
            "s3.eu-west-1.amazonaws.com",
            "s3.dualstack.eu-west-1.amazonaws.com",
            "s3-fips.eu-west-1.amazonaws.com",
        ] {
            assert_eq!(amazon(host), "s3.eu-west-1.amazonaws.com");
        }
        assert_eq!(amazon("s3.amazonaws.com"), "s3.us-east-1.amazonaws.com");
        assert_eq!(amazon("s3.example.com"), "s3.example.com");
    }
}
