//! What is known of a store before it is opened.

use std::fmt;
use std::time::Duration;

use super::error::StoreError;
use super::options::{OptionSpec, Place, parse_bool, parse_duration, parse_retries};
use super::secret::{Scrubber, Secret};
use super::url::{Scheme, StoreUrl};

/// What a store is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Role {
    /// Backups go there first; WAL is safe once it is there.
    #[default]
    Primary,
    /// A second copy near by.
    Secondary,
    /// A copy elsewhere.
    Offsite,
}

impl Role {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "primary" => Ok(Self::Primary),
            "secondary" => Ok(Self::Secondary),
            "offsite" => Ok(Self::Offsite),
            _ => Err(format!(
                "\"{text}\" is none of primary, secondary and offsite"
            )),
        }
    }

    /// The role as options have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
            Self::Offsite => "offsite",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A store's URL and options, checked. Its secrets do not show in Debug output.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    pub(super) url: StoreUrl,
    pub(super) role: Role,
    pub(super) create: bool,
    pub(super) endpoint: Option<String>,
    pub(super) region: Option<String>,
    pub(super) allow_http: Option<bool>,
    pub(super) path_style: Option<bool>,
    pub(super) timeout: Duration,
    pub(super) retry_timeout: Duration,
    pub(super) max_retries: usize,
    pub(super) service_account_path: Option<String>,
    pub(super) account_name: Option<String>,
    /// Options whose values are secret, by name.
    pub(super) secrets: Vec<(&'static str, Secret)>,
}

impl StoreConfig {
    /// A store with nothing but a URL: credentials come from the environment.
    ///
    /// # Errors
    /// [`Config`](super::ErrorKind::Config), as of [`StoreUrl::parse`].
    pub fn from_url(url: &str) -> Result<Self, StoreError> {
        Self::from_options([("url", url)])
    }

    /// A store by its options, those of the server and those of the user mapping together; `url` must be among them.
    ///
    /// # Errors
    /// [`Config`](super::ErrorKind::Config) for an unknown option, one that this kind of store does not take, one that is
    /// said twice, or a wrong value.
    pub fn from_options<'o>(
        options: impl IntoIterator<Item = (&'o str, &'o str)>,
    ) -> Result<Self, StoreError> {
        let options: Vec<(&str, &str)> = options.into_iter().collect();
        let url = options
            .iter()
            .find(|(name, _)| *name == "url")
            .ok_or_else(|| StoreError::config("", "the option \"url\" is missing"))?;
        let mut config = Self::new(StoreUrl::parse(url.1)?);
        let mut seen: Vec<&str> = Vec::new();
        for (name, value) in options {
            let spec = OptionSpec::find(name).map_err(|e| config.wrong(e.detail()))?;
            if seen.contains(&spec.name) {
                return Err(config.wrong(&format!("option \"{name}\" is given twice")));
            }
            seen.push(spec.name);
            config.check_scheme(spec)?;
            spec.check(value).map_err(|e| config.wrong(e.detail()))?;
            config
                .set(spec, value)
                .map_err(|detail| config.wrong(&format!("option \"{name}\": {detail}")))?;
        }
        Ok(config)
    }

    /// Checks options of a server or of a user mapping by themselves, as `CREATE SERVER` and `CREATE USER MAPPING` must: a
    /// server's URL tells which options it takes, a user mapping's server is not known.
    ///
    /// # Errors
    /// [`Config`](super::ErrorKind::Config) as of [`StoreConfig::from_options`], or for an option in the wrong place: a
    /// secret among the server's options would be seen by everyone.
    pub fn check_options<'o>(
        place: Place,
        options: impl IntoIterator<Item = (&'o str, &'o str)>,
    ) -> Result<(), StoreError> {
        let options: Vec<(&str, &str)> = options.into_iter().collect();
        for (name, value) in &options {
            let spec = OptionSpec::find(name)?;
            if spec.place != place {
                let right = match spec.place {
                    Place::Server => "the server",
                    Place::UserMapping => "the user mapping",
                };
                return Err(StoreError::config(
                    "",
                    format!("option \"{name}\" belongs to {right}"),
                ));
            }
            spec.check(value)?;
        }
        match place {
            Place::Server => Self::from_options(options).map(drop),
            Place::UserMapping => Ok(()),
        }
    }

    fn new(url: StoreUrl) -> Self {
        Self {
            url,
            role: Role::default(),
            create: false,
            endpoint: None,
            region: None,
            allow_http: None,
            path_style: None,
            timeout: Duration::from_secs(30),
            retry_timeout: Duration::from_secs(120),
            max_retries: 20,
            service_account_path: None,
            account_name: None,
            secrets: Vec::new(),
        }
    }

    fn set(&mut self, spec: &OptionSpec, value: &str) -> Result<(), String> {
        match spec.name {
            "role" => self.role = Role::parse(value)?,
            "create" => self.create = parse_bool(value)?,
            "endpoint" => self.endpoint = Some(value.to_owned()),
            "region" => self.region = Some(value.to_owned()),
            "allow_http" => self.allow_http = Some(parse_bool(value)?),
            "path_style" => self.path_style = Some(parse_bool(value)?),
            "timeout" => self.timeout = parse_duration(value)?,
            "retry_timeout" => self.retry_timeout = parse_duration(value)?,
            "max_retries" => self.max_retries = parse_retries(value)?,
            "service_account_path" => self.service_account_path = Some(value.to_owned()),
            "account_name" => self.account_name = Some(value.to_owned()),
            name if spec.secret => self.secrets.push((name, Secret::new(value))),
            // The URL was parsed before.
            _ => {}
        }
        Ok(())
    }

    fn check_scheme(&self, spec: &OptionSpec) -> Result<(), StoreError> {
        let scheme = self.url.scheme();
        match spec.schemes.contains(&scheme) {
            true => Ok(()),
            false => Err(self.wrong(&format!(
                "a store at {}:// has no option \"{}\"",
                scheme.name(),
                spec.name
            ))),
        }
    }

    fn wrong(&self, detail: &str) -> StoreError {
        StoreError::config(self.url.to_string(), self.scrubber().scrub(detail))
    }

    /// The same store, asked once more at most and for a short time: for who can ask another one meanwhile.
    #[must_use]
    pub fn hasty(mut self) -> Self {
        self.timeout = self.timeout.min(Duration::from_secs(5));
        self.retry_timeout = self.retry_timeout.min(Duration::from_secs(5));
        self.max_retries = self.max_retries.min(1);
        self
    }

    /// Where the store is.
    pub fn url(&self) -> &StoreUrl {
        &self.url
    }

    /// What the store is for.
    pub fn role(&self) -> Role {
        self.role
    }

    pub(super) fn secret(&self, name: &str) -> Option<&str> {
        self.secrets
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, secret)| secret.reveal())
    }

    /// Knows the secrets of the options and those of the environment that this kind of store reads.
    pub(super) fn scrubber(&self) -> Scrubber {
        let prefix = match self.url.scheme() {
            Scheme::File => None,
            Scheme::S3 => Some("AWS_"),
            Scheme::Gcs => Some("GOOGLE_"),
            Scheme::Azure => Some("AZURE_"),
        };
        let environment: Vec<String> = prefix
            .map(|prefix| {
                std::env::vars_os()
                    .filter_map(|(name, value)| {
                        Some((name.into_string().ok()?, value.into_string().ok()?))
                    })
                    .filter(|(name, value)| name.starts_with(prefix) && is_secret(name, value))
                    .map(|(_, value)| value)
                    .collect()
            })
            .unwrap_or_default();
        let options = self.secrets.iter().map(|(_, secret)| secret.reveal());
        Scrubber::new(options.chain(environment.iter().map(String::as_str)))
    }
}

/// Whether a variable of the environment holds a secret, and not the path of a file or a switch.
fn is_secret(name: &str, value: &str) -> bool {
    ["KEY", "TOKEN", "SECRET", "PASSWORD", "SAS"]
        .iter()
        .any(|word| name.contains(word))
        && !name.ends_with("_FILE")
        && value.len() >= 8
}
