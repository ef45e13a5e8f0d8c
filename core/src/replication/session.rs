//! Commands and their rows.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;

use super::conninfo::ConnInfo;
use super::error::{ReplicationError, ServerError};
use super::login::login;
use super::wire::{Incoming, Wire};
use crate::backup::Lsn;
use crate::wait::Tick;

/// Most rows that a command may return: a base backup has one for each tablespace.
const MAX_ROWS: usize = 100_000;

/// How much of a manifest is sent in one message.
const PIECE_BYTES: usize = 64 << 10;

/// The fields of a row, as text; none is NULL.
pub type Row = Vec<Option<String>>;

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's system identifier.
    pub system_identifier: u64,
    /// The timeline it writes.
    pub timeline: u32,
    /// Up to where its WAL is flushed.
    pub position: Lsn,
}

/// A connection for replication, or for SQL where a database is named. Dropped in the midst of a command, it cancels that.
pub struct Session {
    pub(super) wire: Wire,
    /// Warnings and notices that came.
    pub(super) notices: Vec<ServerError>,
}

impl Session {
    /// Connects and gets in.
    ///
    /// # Errors
    /// [`ReplicationError::Unreachable`], [`ReplicationError::Refused`] with a hint where a line of `pg_hba.conf` or a right
    /// is missing, [`ReplicationError::Config`] where a password is, or what the server says.
    pub fn connect(info: &ConnInfo, tick: Tick<'_>) -> Result<Self, ReplicationError> {
        Ok(Self {
            wire: login(info, tick)?,
            notices: Vec::new(),
        })
    }

    /// Asks who the server is.
    ///
    /// # Errors
    /// What the server says.
    pub fn identify(&mut self, tick: Tick<'_>) -> Result<Identity, ReplicationError> {
        let rows = self.query("IDENTIFY_SYSTEM", tick)?;
        let field = |n: usize| {
            rows.first()
                .and_then(|row| row.get(n))
                .and_then(Option::as_deref)
        };
        let identity = || {
            Some(Identity {
                system_identifier: field(0)?.parse().ok()?,
                timeline: field(1)?.parse().ok()?,
                position: field(2)?.parse().ok()?,
            })
        };
        identity().ok_or_else(|| ReplicationError::protocol("IDENTIFY_SYSTEM gave no identity"))
    }

    /// The value of a setting.
    ///
    /// # Errors
    /// What the server says.
    pub fn show(&mut self, name: &str, tick: Tick<'_>) -> Result<String, ReplicationError> {
        let rows = self.query(&format!("SHOW {name}"), tick)?;
        rows.into_iter()
            .next()
            .and_then(|row| row.into_iter().next().flatten())
            .ok_or_else(|| ReplicationError::protocol(format!("SHOW {name} gave no value")))
    }

    /// Gives the server the manifest of the backup that the next one shall be incremental to.
    ///
    /// # Errors
    /// What the server says; a reader's own error is [`ReplicationError::Lost`].
    pub fn upload_manifest(
        &mut self,
        manifest: &mut dyn std::io::Read,
        tick: Tick<'_>,
    ) -> Result<(), ReplicationError> {
        self.command("UPLOAD_MANIFEST", tick)?;
        match self.message(tick)? {
            Message::CopyInResponse(_) => {}
            _ => return Err(ReplicationError::protocol("the server takes no manifest")),
        }
        let mut piece = vec![0; PIECE_BYTES];
        let mut bytes = BytesMut::new();
        loop {
            let got = manifest.read(&mut piece).map_err(|error| {
                ReplicationError::lost(format!("the manifest cannot be read: {error}"))
            })?;
            if got == 0 {
                break;
            }
            bytes.clear();
            frontend::CopyData::new(piece.get(..got).unwrap_or_default())
                .map_err(|error| ReplicationError::protocol(error.to_string()))?
                .write(&mut bytes);
            self.wire.send(&bytes, tick)?;
        }
        bytes.clear();
        frontend::copy_done(&mut bytes);
        self.wire.send(&bytes, tick)?;
        while !self.row(&mut Vec::new(), tick)? {}
        self.ready(tick)
    }

    /// Runs a command, or one statement of SQL, to its end; its rows.
    ///
    /// # Errors
    /// What the server says; the session is of no use then.
    pub fn query(&mut self, command: &str, tick: Tick<'_>) -> Result<Vec<Row>, ReplicationError> {
        self.command(command, tick)?;
        let rows = self.rows(tick)?;
        self.ready(tick)?;
        Ok(rows)
    }

    /// Runs a `COPY … TO STDOUT`; `each` is given the bytes of each message, a row in most formats.
    ///
    /// # Errors
    /// What the server says, and what `each` answers; the session is of no use then.
    pub fn copy_out(
        &mut self,
        command: &str,
        each: &mut dyn FnMut(&[u8]) -> Result<(), ReplicationError>,
        tick: Tick<'_>,
    ) -> Result<(), ReplicationError> {
        self.command(command, tick)?;
        match self.message(tick)? {
            Message::CopyOutResponse(_) => {}
            _ => return Err(ReplicationError::protocol("no copy comes")),
        }
        loop {
            match self.incoming(tick)? {
                Incoming::Copy(mut batch) => {
                    while let Some(bytes) = batch.next() {
                        each(bytes)?;
                    }
                }
                Incoming::Message(Message::CopyDone) => return self.ready(tick),
                Incoming::Message(_) => {
                    return Err(ReplicationError::protocol(
                        "a copy has something else in it",
                    ));
                }
            }
        }
    }

    pub(super) fn command(
        &mut self,
        command: &str,
        tick: Tick<'_>,
    ) -> Result<(), ReplicationError> {
        let mut bytes = BytesMut::new();
        frontend::query(command, &mut bytes)
            .map_err(|error| ReplicationError::config(error.to_string()))?;
        self.wire.busy = true;
        self.wire.send(&bytes, tick)
    }

    /// The rows of the next result.
    pub(super) fn rows(&mut self, tick: Tick<'_>) -> Result<Vec<Row>, ReplicationError> {
        let mut rows = Vec::new();
        while !self.row(&mut rows, tick)? {}
        Ok(rows)
    }

    /// Reads a message of a result; whether it was the last.
    fn row(&mut self, rows: &mut Vec<Row>, tick: Tick<'_>) -> Result<bool, ReplicationError> {
        match self.message(tick)? {
            Message::RowDescription(_) => Ok(false),
            Message::DataRow(body) if rows.len() < MAX_ROWS => {
                rows.push(fields(&body)?);
                Ok(false)
            }
            Message::CommandComplete(_) => Ok(true),
            _ => Err(ReplicationError::protocol(
                "a result has something else in it",
            )),
        }
    }

    /// Waits until the server is ready for another command.
    pub(super) fn ready(&mut self, tick: Tick<'_>) -> Result<(), ReplicationError> {
        loop {
            match self.message(tick)? {
                Message::ReadyForQuery(_) => {
                    self.wire.busy = false;
                    return Ok(());
                }
                Message::CommandComplete(_) => {}
                _ => return Err(ReplicationError::protocol("a command does not end")),
            }
        }
    }

    /// The next message that is no notice and no data.
    pub(super) fn message(&mut self, tick: Tick<'_>) -> Result<Message, ReplicationError> {
        match self.incoming(tick)? {
            Incoming::Message(message) => Ok(message),
            Incoming::Copy(_) => Err(ReplicationError::protocol("data that was not asked for")),
        }
    }

    /// The next message or data; an error of the server is an error here.
    pub(super) fn incoming(&mut self, tick: Tick<'_>) -> Result<Incoming, ReplicationError> {
        loop {
            match self.wire.next(tick)? {
                Incoming::Message(Message::ErrorResponse(body)) => {
                    self.wire.busy = false;
                    return Err(Box::new(ServerError::read(body.fields())?).into());
                }
                Incoming::Message(Message::NoticeResponse(body)) => {
                    // A server that is chatty must not fill our memory.
                    if self.notices.len() < 100 {
                        self.notices.push(ServerError::read(body.fields())?);
                    }
                }
                Incoming::Message(Message::ParameterStatus(_)) => {}
                other => return Ok(other),
            }
        }
    }
}

fn fields(body: &DataRowBody) -> Result<Row, ReplicationError> {
    let broken = |error: std::io::Error| ReplicationError::protocol(format!("a row: {error}"));
    let mut row = Vec::new();
    let mut ranges = body.ranges();
    while let Some(range) = ranges.next().map_err(broken)? {
        let field = match range {
            None => None,
            Some(range) => {
                let bytes = body.buffer().get(range);
                let bytes =
                    bytes.ok_or_else(|| ReplicationError::protocol("a row is cut short"))?;
                Some(String::from_utf8_lossy(bytes).into_owned())
            }
        };
        row.push(field);
    }
    Ok(row)
}
