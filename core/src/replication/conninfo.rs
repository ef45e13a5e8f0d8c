//! How to reach a server, in libpq's terms.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use super::error::ReplicationError;

/// Longest file of passwords, in bytes.
const MAX_PASSFILE_BYTES: u64 = 1 << 20;

/// Where Debian's servers have their sockets.
const SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket, by its whole path.
    Unix(PathBuf),
    /// A loopback address.
    Tcp(SocketAddr),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// How to reach a server. Its password does not show in Debug output.
#[derive(Clone)]
pub struct ConnInfo {
    pub(super) address: Address,
    pub(super) user: String,
    pub(super) password: Option<String>,
    pub(super) application_name: String,
    /// The database of a connection for SQL; one for replication is in none.
    pub(super) database: Option<String>,
    /// Settings of the session, as `options` of libpq has them.
    pub(super) options: Option<String>,
}

impl ConnInfo {
    /// A server on a Unix socket in a directory.
    pub fn socket(directory: &Path, port: u16, user: &str) -> Self {
        Self {
            address: Address::Unix(directory.join(format!(".s.PGSQL.{port}"))),
            user: user.to_owned(),
            password: None,
            application_name: "varve".to_owned(),
            database: None,
            options: None,
        }
    }

    /// The same server, with settings of the session: `-c name=value`, a backslash before each blank in a value.
    pub fn with_options(mut self, options: &str) -> Self {
        self.options = Some(options.to_owned());
        self
    }

    /// The same server, for SQL in a database instead of replication.
    pub fn with_database(mut self, database: &str) -> Self {
        self.database = Some(database.to_owned());
        self
    }

    /// Parses a libpq connection string of `key=value` pairs; what it does not say comes from the environment: `PGHOST`,
    /// `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGPASSFILE`.
    ///
    /// # Errors
    /// [`ReplicationError::Config`] for what cannot be parsed, for a host that is not on loopback, and where TLS is
    /// demanded: there is none.
    pub fn parse(text: &str) -> Result<Self, ReplicationError> {
        let mut settings = Settings::default();
        for (key, value) in pairs(text)? {
            settings.set(&key, value)?;
        }
        settings.resolve()
    }

    /// Where the server listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// As whom we come.
    pub fn user(&self) -> &str {
        &self.user
    }
}

impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnInfo({} as {})", self.address, self.user)
    }
}

#[derive(Default)]
struct Settings {
    host: Option<String>,
    port: Option<String>,
    user: Option<String>,
    password: Option<String>,
    passfile: Option<String>,
    application_name: Option<String>,
}

impl Settings {
    fn set(&mut self, key: &str, value: String) -> Result<(), ReplicationError> {
        match key {
            "host" | "hostaddr" => self.host = Some(value),
            "port" => self.port = Some(value),
            "user" => self.user = Some(value),
            "password" => self.password = Some(value),
            "passfile" => self.passfile = Some(value),
            "application_name" => self.application_name = Some(value),
            "sslmode" if matches!(value.as_str(), "require" | "verify-ca" | "verify-full") => {
                return Err(no_tls());
            }
            // Whoever speaks the replication protocol is in no database.
            "dbname"
            | "replication"
            | "sslmode"
            | "fallback_application_name"
            | "client_encoding"
            | "gssencmode"
            | "connect_timeout" => {}
            other => {
                return Err(ReplicationError::config(format!(
                    "\"{other}\" is not known here; known are host, port, user, password, passfile and application_name"
                )));
            }
        }
        Ok(())
    }

    fn resolve(self) -> Result<ConnInfo, ReplicationError> {
        let or_variable =
            |value: Option<String>, name: &str| value.or_else(|| std::env::var(name).ok());
        let host = or_variable(self.host, "PGHOST").filter(|host| !host.is_empty());
        let port = or_variable(self.port, "PGPORT").unwrap_or_else(|| "5432".to_owned());
        let port: u16 = port
            .parse()
            .map_err(|_| ReplicationError::config(format!("\"{port}\" is no port")))?;
        let user = or_variable(self.user, "PGUSER")
            .or_else(|| std::env::var("USER").ok())
            .ok_or_else(|| ReplicationError::config("no user is named: say user=..."))?;
        let passfile = or_variable(self.passfile, "PGPASSFILE");
        let host = host.unwrap_or_else(|| SOCKET_DIRECTORY.to_owned());
        let address = match host.starts_with('/') {
            true => Address::Unix(Path::new(&host).join(format!(".s.PGSQL.{port}"))),
            false => Address::Tcp(loopback(&host, port)?),
        };
        let password = match or_variable(self.password, "PGPASSWORD") {
            Some(password) => Some(password),
            None => from_passfile(passfile, &host, port, &user)?,
        };
        Ok(ConnInfo {
            address,
            user,
            password,
            application_name: self.application_name.unwrap_or_else(|| "varve".to_owned()),
            database: None,
            options: None,
        })
    }
}

fn no_tls() -> ReplicationError {
    ReplicationError::config(
        "TLS is not supported: take the backup on the server's own machine, through its Unix socket",
    )
}

fn loopback(host: &str, port: u16) -> Result<SocketAddr, ReplicationError> {
    let unknown = |detail: String| ReplicationError::config(format!("host \"{host}\": {detail}"));
    // Other names would be looked up somewhere, and for long.
    let found = match (host, host.parse::<IpAddr>()) {
        (_, Ok(address)) => Some(SocketAddr::new(address, port)),
        ("localhost", _) => (host, port)
            .to_socket_addrs()
            .map_err(|error| unknown(error.to_string()))?
            .next(),
        _ => None,
    };
    found
        .filter(|address| address.ip().is_loopback())
        .ok_or_else(|| {
            unknown(
                "only Unix sockets and loopback addresses are taken, since TLS is not supported"
                    .to_owned(),
            )
        })
}

/// The password of a line `host:port:database:user:password`, whose fields may be `*`.
fn from_passfile(
    passfile: Option<String>,
    host: &str,
    port: u16,
    user: &str,
) -> Result<Option<String>, ReplicationError> {
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;
    let named = passfile.is_some();
    let path = match passfile {
        Some(path) => PathBuf::from(path),
        None => match std::env::var_os("HOME") {
            Some(home) => Path::new(&home).join(".pgpass"),
            None => return Ok(None),
        },
    };
    let failed = |detail: String| {
        ReplicationError::config(format!("file of passwords {}: {detail}", path.display()))
    };
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(_) if !named => return Ok(None),
        Err(error) => return Err(failed(error.to_string())),
    };
    let mode = file.metadata().map_err(|e| failed(e.to_string()))?.mode();
    if mode & 0o077 != 0 {
        return match named {
            false => Ok(None),
            true => Err(failed(
                "others can read it: its mode must be 0600".to_owned(),
            )),
        };
    }
    let mut text = String::new();
    file.take(MAX_PASSFILE_BYTES)
        .read_to_string(&mut text)
        .map_err(|e| failed(e.to_string()))?;
    let host = match host.starts_with('/') {
        true => "localhost",
        false => host,
    };
    let port = port.to_string();
    let wanted = [host, port.as_str(), "replication", user];
    Ok(text.lines().find_map(|line| password_of(line, &wanted)))
}

fn password_of(line: &str, wanted: &[&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match (letter, fields.len()) {
            (':', 1..=4) => fields.push(String::new()),
            ('\\', _) => fields.last_mut()?.extend(letters.next()),
            (letter, _) => fields.last_mut()?.push(letter),
        }
    }
    let password = match fields.len() {
        5 => fields.pop()?,
        _ => return None,
    };
    let fits = fields
        .iter()
        .zip(wanted)
        .all(|(field, wanted)| field == "*" || field == wanted);
    fits.then_some(password)
}

/// Cuts `key = 'value'` pairs, with libpq's quoting.
fn pairs(text: &str) -> Result<Vec<(String, String)>, ReplicationError> {
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        return Err(ReplicationError::config(
            "write the connection as key=value pairs, not as a URL",
        ));
    }
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or_else(|| {
            ReplicationError::config(format!("\"{}\" has no value", rest.trim_end()))
        })?;
        let (value, after) = value(after.trim_start())?;
        pairs.push((key.trim().to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

fn value(text: &str) -> Result<(String, &str), ReplicationError> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut letters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            '\'' if quoted => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            letter if !quoted && letter.is_whitespace() => {
                return Ok((value, text.get(at..).unwrap_or_default()));
            }
            letter => value.push(letter),
        }
    }
    match quoted {
        true => Err(ReplicationError::config("a quoted value does not end")),
        false => Ok((value, "")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn connection_strings() {
        let info =
            ConnInfo::parse("host=/run/pg port = 5433 user='o\\'b r' dbname=x password=s").unwrap();
        assert_eq!(info.address, Address::Unix("/run/pg/.s.PGSQL.5433".into()));
        assert_eq!(
            (info.user.as_str(), info.password.as_deref()),
            ("o'b r", Some("s"))
        );
        assert!(!format!("{info:?}").contains("Some"));
        let tcp = ConnInfo::parse("host=127.0.0.1 user=u port=1 password=''").unwrap();
        assert_eq!(tcp.address, Address::Tcp("127.0.0.1:1".parse().unwrap()));
        for (wrong, says) in [
            ("host=10.0.0.1 user=u", "TLS"),
            ("host=example.org user=u", "loopback"),
            ("host=/x user=u sslmode=require", "TLS"),
            ("host=/x user=u port=99999", "port"),
            ("host=/x user='u", "does not end"),
            ("host", "no value"),
            ("hots=/x", "not known"),
            ("postgresql://x", "key=value"),
        ] {
            let error = ConnInfo::parse(wrong).unwrap_err().to_string();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }

    #[test]
    fn lines_of_passwords() {
        let wanted = ["localhost", "5432", "replication", "me"];
        let password = |line| password_of(line, &wanted);
        assert_eq!(password("*:*:*:me:a\\:b:c"), Some("a:b:c".to_owned()));
        assert_eq!(
            password("localhost:5432:replication:me:x"),
            Some("x".to_owned())
        );
        assert_eq!(password("localhost:5432:postgres:me:x"), None);
        assert_eq!(password("#*:*:*:*:x"), None);
        assert_eq!(password("*:*:*"), None);
    }
}
