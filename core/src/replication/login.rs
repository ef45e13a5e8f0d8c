//! Getting in: start-up and authentication.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use super::conninfo::{Address, ConnInfo};
use super::error::{ReplicationError, ServerError};
use super::wire::{Incoming, Wire};
use crate::wait::Tick;

/// "There is no line for you", and its neighbours.
const INVALID_AUTHORIZATION: &str = "28000";

/// Connects and gets in.
pub(super) fn login(info: &ConnInfo, tick: Tick<'_>) -> Result<Wire, ReplicationError> {
    let mut login = Login {
        wire: Wire::connect(&info.address, tick)?,
        info,
        tick,
    };
    let purpose = match &info.database {
        Some(database) => ("database", database.as_str()),
        None => ("replication", "true"),
    };
    let mut parameters = vec![
        ("user", info.user.as_str()),
        purpose,
        ("application_name", info.application_name.as_str()),
        ("client_encoding", "UTF8"),
    ];
    if let Some(options) = &info.options {
        parameters.push(("options", options));
    }
    login.send(|bytes| frontend::startup_message(parameters.iter().copied(), bytes))?;
    login.authenticate()?;
    login.settle()?;
    Ok(login.wire)
}

struct Login<'l> {
    wire: Wire,
    info: &'l ConnInfo,
    tick: Tick<'l>,
}

impl Login<'_> {
    fn send(
        &mut self,
        make: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
    ) -> Result<(), ReplicationError> {
        let mut bytes = BytesMut::new();
        make(&mut bytes).map_err(|error| ReplicationError::config(error.to_string()))?;
        self.wire.send(&bytes, self.tick)
    }

    fn next(&mut self) -> Result<Message, ReplicationError> {
        loop {
            match self.wire.next(self.tick)? {
                Incoming::Message(Message::ErrorResponse(body)) => {
                    let error = ServerError::read(body.fields())?;
                    return Err(refused(error, self.info));
                }
                Incoming::Message(Message::NoticeResponse(_)) => {}
                Incoming::Message(message) => return Ok(message),
                Incoming::Copy(_) => {
                    return Err(ReplicationError::protocol("data before the log-in"));
                }
            }
        }
    }

    fn password(&self) -> Result<&str, ReplicationError> {
        self.info.password.as_deref().ok_or_else(|| {
            ReplicationError::config(format!(
                "the server asks for the password of {}: give it in PGPASSWORD or in a file named by PGPASSFILE",
                self.info.user
            ))
        })
    }

    fn authenticate(&mut self) -> Result<(), ReplicationError> {
        loop {
            match self.next()? {
                Message::AuthenticationOk => return Ok(()),
                Message::AuthenticationCleartextPassword => {
                    let password = self.password()?.to_owned();
                    self.send(|bytes| frontend::password_message(password.as_bytes(), bytes))?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let user = self.info.user.as_bytes();
                    let hash = md5_hash(user, self.password()?.as_bytes(), body.salt());
                    self.send(|bytes| frontend::password_message(hash.as_bytes(), bytes))?;
                }
                Message::AuthenticationSasl(body) => self.scram(&body)?,
                _ => {
                    return Err(ReplicationError::config(
                        "the server asks for a kind of authentication that is not supported; supported are peer, trust, scram-sha-256, md5 and password",
                    ));
                }
            }
        }
    }

    fn scram(&mut self, body: &AuthenticationSaslBody) -> Result<(), ReplicationError> {
        let wrong = |error: std::io::Error| {
            ReplicationError::config(format!("authentication by scram-sha-256: {error}"))
        };
        let mut mechanisms = body.mechanisms();
        let mut offered = false;
        while let Some(mechanism) = mechanisms.next().map_err(wrong)? {
            offered |= mechanism == SCRAM_SHA_256;
        }
        if !offered {
            return Err(ReplicationError::config(
                "the server offers no authentication by scram-sha-256 without TLS",
            ));
        }
        let password = self.password()?.as_bytes();
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        self.send(|bytes| frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), bytes))?;
        let Message::AuthenticationSaslContinue(body) = self.next()? else {
            return Err(ReplicationError::protocol("scram-sha-256 does not go on"));
        };
        scram.update(body.data()).map_err(wrong)?;
        self.send(|bytes| frontend::sasl_response(scram.message(), bytes))?;
        let Message::AuthenticationSaslFinal(body) = self.next()? else {
            return Err(ReplicationError::protocol("scram-sha-256 does not end"));
        };
        scram.finish(body.data()).map_err(wrong)
    }

    /// Reads on until the server is ready.
    fn settle(&mut self) -> Result<(), ReplicationError> {
        loop {
            match self.next()? {
                Message::BackendKeyData(body) => {
                    self.wire.key = Some((body.process_id(), body.secret_key()));
                }
                Message::ParameterStatus(_) => {}
                Message::ReadyForQuery(_) => return Ok(()),
                _ => return Err(ReplicationError::protocol("no start-up message")),
            }
        }
    }
}

/// What to do about a refusal.
fn refused(error: ServerError, info: &ConnInfo) -> ReplicationError {
    let user = &info.user;
    let line = match &info.address {
        Address::Unix(_) => format!("local replication {} peer", quoted(user)),
        Address::Tcp(address) => format!(
            "host replication {} {}/{} scram-sha-256",
            quoted(user),
            address.ip(),
            if address.is_ipv4() { 32 } else { 128 }
        ),
    };
    let hint = if error.sqlstate == INVALID_AUTHORIZATION && error.message.contains("pg_hba.conf") {
        format!(
            "Add this line to pg_hba.conf, above others for replication, and reload the server: {line}"
        )
    } else if error.sqlstate == "28000" && error.message.contains("eer authentication") {
        format!(
            "Peer authentication lets in the operating system's user of the same name: run as {user}, or map the names in pg_ident.conf."
        )
    } else if error.sqlstate == "42501" {
        format!(
            "Let the role take backups: ALTER ROLE {} REPLICATION;",
            quoted(user)
        )
    } else if error.sqlstate == "53300" {
        "Raise max_wal_senders.".to_owned()
    } else {
        return Box::new(error).into();
    };
    ReplicationError::Refused {
        message: error.to_string(),
        hint,
        cause: Some(Box::new(error)),
    }
}

fn quoted(name: &str) -> String {
    let plain = name
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    match plain && !name.is_empty() {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}
