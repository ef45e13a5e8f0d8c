//! The options of a store: which there are, where they are said, what values they take.

use std::time::Duration;

use super::config::Role;
use super::error::StoreError;
use super::url::{Scheme, StoreUrl};

/// Where an option is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// `CREATE SERVER … OPTIONS`: everyone who may see the server sees it.
    Server,
    /// `CREATE USER MAPPING … OPTIONS`: the user and superusers see it.
    UserMapping,
}

/// An option of a store.
#[derive(Debug)]
pub struct OptionSpec {
    /// Its name.
    pub name: &'static str,
    /// Where it is said.
    pub place: Place,
    /// Whether its value must never be shown.
    pub secret: bool,
    /// The kinds of store that take it.
    pub schemes: &'static [Scheme],
    /// What it does and what it is when it is not said.
    pub about: &'static str,
    check: fn(&str) -> Result<(), String>,
}

impl OptionSpec {
    /// The option of that name.
    ///
    /// # Errors
    /// [`Config`](super::ErrorKind::Config) for an unknown one; the message names the nearest one and lists all.
    pub fn find(name: &str) -> Result<&'static Self, StoreError> {
        OPTIONS
            .iter()
            .find(|option| option.name == name)
            .ok_or_else(|| StoreError::config("", unknown(name)))
    }

    /// Whether the value is one that the option takes. The message names the option, and never the value of a secret.
    ///
    /// # Errors
    /// [`Config`](super::ErrorKind::Config).
    pub fn check(&self, value: &str) -> Result<(), StoreError> {
        (self.check)(value)
            .map_err(|detail| StoreError::config("", format!("option \"{}\": {detail}", self.name)))
    }
}

const FILE: &[Scheme] = &[Scheme::File];
const S3: &[Scheme] = &[Scheme::S3];
const GCS: &[Scheme] = &[Scheme::Gcs];
const AZURE: &[Scheme] = &[Scheme::Azure];
const REMOTE: &[Scheme] = &[Scheme::S3, Scheme::Gcs, Scheme::Azure];
const ALL: &[Scheme] = &[Scheme::File, Scheme::S3, Scheme::Gcs, Scheme::Azure];

const fn server(
    name: &'static str,
    schemes: &'static [Scheme],
    check: fn(&str) -> Result<(), String>,
    about: &'static str,
) -> OptionSpec {
    OptionSpec {
        name,
        place: Place::Server,
        secret: false,
        schemes,
        about,
        check,
    }
}

const fn mapping(
    name: &'static str,
    secret: bool,
    schemes: &'static [Scheme],
    check: fn(&str) -> Result<(), String>,
    about: &'static str,
) -> OptionSpec {
    OptionSpec {
        name,
        place: Place::UserMapping,
        secret,
        schemes,
        about,
        check,
    }
}

/// Every option that a store takes.
pub const OPTIONS: &[OptionSpec] = &[
    server("url", ALL, url, "Where the store is; always needed."),
    server(
        "role",
        ALL,
        role,
        "primary, secondary or offsite. Default: primary.",
    ),
    server(
        "create",
        FILE,
        boolean,
        "Whether the directory is made when it is not there. Default: false.",
    ),
    server(
        "endpoint",
        REMOTE,
        endpoint,
        "URL of the server, where it is not the provider's own.",
    ),
    server(
        "region",
        S3,
        word,
        "Region of the bucket. Default: AWS_REGION, else us-east-1.",
    ),
    server(
        "allow_http",
        REMOTE,
        boolean,
        "Whether plain HTTP will do. Default: false.",
    ),
    server(
        "path_style",
        S3,
        boolean,
        "Whether the bucket stands in the path rather than in the host's name. Default: true.",
    ),
    server(
        "timeout",
        REMOTE,
        duration,
        "How long a request may stand still before it is given up. Default: 30s.",
    ),
    server(
        "retry_timeout",
        REMOTE,
        duration,
        "How long a failed request is tried again, at most 10min. Default: 2min.",
    ),
    server(
        "max_retries",
        REMOTE,
        retries,
        "How often a failed request is tried again, at most 1000. Default: 20.",
    ),
    mapping(
        "access_key_id",
        true,
        S3,
        word,
        "Access key. Default: AWS_ACCESS_KEY_ID.",
    ),
    mapping(
        "secret_access_key",
        true,
        S3,
        word,
        "Secret of the access key. Default: AWS_SECRET_ACCESS_KEY.",
    ),
    mapping(
        "session_token",
        true,
        S3,
        word,
        "Token of temporary credentials. Default: AWS_SESSION_TOKEN.",
    ),
    mapping(
        "service_account_path",
        false,
        GCS,
        path,
        "File on the server with a service account's key. Default: GOOGLE_SERVICE_ACCOUNT.",
    ),
    mapping(
        "service_account_key",
        true,
        GCS,
        text,
        "The key itself, a JSON document. Default: GOOGLE_SERVICE_ACCOUNT_KEY.",
    ),
    mapping(
        "account_name",
        false,
        AZURE,
        word,
        "Storage account. Default: AZURE_STORAGE_ACCOUNT_NAME.",
    ),
    mapping(
        "access_key",
        true,
        AZURE,
        word,
        "Key of the account. Default: AZURE_STORAGE_ACCOUNT_KEY.",
    ),
    mapping(
        "sas_token",
        true,
        AZURE,
        word,
        "Shared access signature. Default: AZURE_STORAGE_SAS_KEY.",
    ),
];

fn unknown(name: &str) -> String {
    let nearest = OPTIONS
        .iter()
        .map(|option| (distance(name, option.name), option.name))
        .min()
        .filter(|(distance, nearest)| *distance <= nearest.len() / 2)
        .map(|(_, nearest)| format!(" (did you mean \"{nearest}\"?)"))
        .unwrap_or_default();
    let all: Vec<&str> = OPTIONS.iter().map(|option| option.name).collect();
    let name: String = name.chars().take(64).collect();
    format!(
        "unknown option \"{name}\"{nearest}. Valid options are {}",
        all.join(", ")
    )
}

/// Levenshtein's distance of the first 64 characters.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().take(64).enumerate() {
        let mut next = vec![i + 1];
        for ((b, above), pair) in right.iter().zip(row.iter().skip(1)).zip(row.windows(2)) {
            let diagonal = pair.first().copied().unwrap_or(0) + usize::from(a != *b);
            let before = next.last().copied().unwrap_or(0) + 1;
            next.push(diagonal.min(before).min(above + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

fn url(value: &str) -> Result<(), String> {
    StoreUrl::parse(value)
        .map(drop)
        .map_err(|error| error.detail().to_owned())
}

fn role(value: &str) -> Result<(), String> {
    Role::parse(value).map(drop)
}

fn boolean(value: &str) -> Result<(), String> {
    parse_bool(value).map(drop)
}

fn duration(value: &str) -> Result<(), String> {
    parse_duration(value).map(drop)
}

fn retries(value: &str) -> Result<(), String> {
    parse_retries(value).map(drop)
}

fn text(value: &str) -> Result<(), String> {
    match value.trim() {
        "" => Err("it is empty".to_owned()),
        _ => Ok(()),
    }
}

/// A value without spaces and control characters, that can stand in a header.
fn word(value: &str) -> Result<(), String> {
    text(value)?;
    match value.chars().all(|c| c.is_ascii_graphic()) {
        true => Ok(()),
        false => Err("it has spaces or characters that are not ASCII in it".to_owned()),
    }
}

fn path(value: &str) -> Result<(), String> {
    match value.starts_with('/') && !value.contains('\0') {
        true => Ok(()),
        false => Err("a file is named with its whole path".to_owned()),
    }
}

fn endpoint(value: &str) -> Result<(), String> {
    word(value)?;
    let rest = value
        .strip_prefix("https://")
        .or_else(|| value.strip_prefix("http://"))
        .ok_or("it must begin with https:// or http://")?;
    if rest.is_empty() || rest.starts_with('/') || rest.contains(['@', '?', '#']) {
        return Err(
            "it must be a host, with a port and a path if need be, and nothing else".to_owned(),
        );
    }
    Ok(())
}

pub(super) fn parse_bool(value: &str) -> Result<bool, String> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err(format!("\"{value}\" is neither true nor false")),
    }
}

/// A number with the unit ms, s or min; without one it is seconds.
pub(super) fn parse_duration(value: &str) -> Result<Duration, String> {
    let digits = value.len() - value.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = value.split_at(digits);
    let wrong =
        || format!("\"{value}\" is not a time like 500ms, 30s or 2min, above 0 and at most 10min");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let factor = match unit.trim() {
        "ms" => 1,
        "" | "s" => 1_000,
        "min" => 60_000,
        _ => return Err(wrong()),
    };
    match number.checked_mul(factor) {
        Some(millis @ 1..=600_000) => Ok(Duration::from_millis(millis)),
        _ => Err(wrong()),
    }
}

pub(super) fn parse_retries(value: &str) -> Result<usize, String> {
    match value.parse() {
        Ok(number @ 0..=1_000) => Ok(number),
        _ => Err(format!("\"{value}\" is no number from 0 to 1000")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn nearest_names() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        for (wrong, nearest) in [
            ("acces_key_id", "access_key_id"),
            ("Region", "region"),
            ("time_out", "timeout"),
        ] {
            let message = OptionSpec::find(wrong).unwrap_err().to_string();
            assert!(
                message.contains(&format!("did you mean \"{nearest}\"?")),
                "{message}"
            );
            for option in OPTIONS {
                assert!(message.contains(option.name), "{message}");
            }
        }
        let message = OptionSpec::find("qqqqqqqq").unwrap_err().to_string();
        assert!(!message.contains("did you mean"), "{message}");
    }

    #[test]
    fn values() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        assert_eq!(parse_duration("2 min"), Ok(Duration::from_secs(120)));
        for wrong in [
            "",
            "0",
            "-1",
            "1d",
            "11min",
            "s",
            "99999999999999999999",
            "99999999999999999min",
        ] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_bool("On"), Ok(true));
        assert!(parse_bool("maybe").is_err());
        assert_eq!(parse_retries("0"), Ok(0));
        assert!(parse_retries("1001").is_err());
    }
}
