//! The connection: bytes out, messages in.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::conninfo::Address;
use super::error::ReplicationError;
use crate::wait::{Outcome, TICK, Tick, receive, spawn};

/// The longest message that is taken. The server's pieces of a base backup have 32 KiB.
const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// How much copied data is passed on at once.
const BATCH_BYTES: usize = 1 << 20;

/// How many batches or messages may wait for the caller.
const QUEUE: usize = 8;

/// What is read from the socket at once.
const BUFFER_BYTES: usize = 256 << 10;

const COPY_DATA: u8 = b'd';

/// What came.
pub(super) enum Incoming {
    /// Several messages of copied data.
    Copy(Batch),
    /// One other message.
    Message(Message),
}

/// Several messages of copied data, one after the other.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    next: usize,
}

impl Batch {
    /// Whether all of it was taken.
    pub(super) fn is_empty(&self) -> bool {
        self.next >= self.ends.len()
    }

    /// The next message of it.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        let end = *self.ends.get(self.next)?;
        let begin = match self.next {
            0 => 0,
            n => *self.ends.get(n - 1)?,
        };
        self.next += 1;
        self.bytes.get(begin..end)
    }
}

enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    fn connect(address: &Address) -> io::Result<Self> {
        let socket = match address {
            Address::Unix(path) => Self::Unix(UnixStream::connect(path)?),
            Address::Tcp(address) => Self::Tcp(TcpStream::connect(address)?),
        };
        if let Self::Tcp(tcp) = &socket {
            tcp.set_nodelay(true)?;
        }
        Ok(socket)
    }

    fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Unix(socket) => socket.try_clone().map(Self::Unix),
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
        }
    }

    fn set_write_timeout(&self) -> io::Result<()> {
        match self {
            Self::Unix(socket) => socket.set_write_timeout(Some(TICK)),
            Self::Tcp(socket) => socket.set_write_timeout(Some(TICK)),
        }
    }

    fn shutdown(&self) {
        // It may be closed already.
        let _ = match self {
            Self::Unix(socket) => socket.shutdown(Shutdown::Both),
            Self::Tcp(socket) => socket.shutdown(Shutdown::Both),
        };
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.read(buffer),
            Self::Tcp(socket) => socket.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.write(bytes),
            Self::Tcp(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection. Dropped, it is closed, and what the server does for it is cancelled.
pub(super) struct Wire {
    socket: Socket,
    incoming: Receiver<Result<Incoming, ReplicationError>>,
    address: Address,
    /// Process id and secret with which the server's work for us can be cancelled.
    pub(super) key: Option<(i32, i32)>,
    /// Whether the server is at work for us.
    pub(super) busy: bool,
}

impl Wire {
    /// Connects, on a thread that goes on to read.
    pub(super) fn connect(address: &Address, tick: Tick<'_>) -> Result<Self, ReplicationError> {
        let unreachable = |detail: String| ReplicationError::Unreachable {
            address: address.to_string(),
            detail,
        };
        let (to_caller, from_thread) = channel();
        let (sender, incoming) = sync_channel(QUEUE);
        let to = address.clone();
        let run = move || {
            let connected =
                Socket::connect(&to).and_then(|socket| Ok((socket.try_clone()?, socket)));
            let (answer, socket) = match connected {
                Ok((clone, socket)) => (Ok(clone), Some(socket)),
                Err(error) => (Err(error), None),
            };
            // Who wanted the connection may be gone.
            if to_caller.send(answer).is_ok()
                && let Some(socket) = socket
            {
                read_all(socket, &sender);
            }
        };
        spawn("varve-replication", run).map_err(|error| unreachable(error.to_string()))?;
        let socket = match receive(&from_thread, tick)? {
            Outcome::Sent(Ok(socket)) => socket,
            Outcome::Sent(Err(error)) => return Err(unreachable(error.to_string())),
            Outcome::Gone => return Err(unreachable("the thread ended early".to_owned())),
        };
        socket
            .set_write_timeout()
            .map_err(|error| unreachable(error.to_string()))?;
        Ok(Self {
            socket,
            incoming,
            address: address.clone(),
            key: None,
            busy: false,
        })
    }

    /// Sends bytes, with the tick asked where the server does not take them.
    pub(super) fn send(
        &mut self,
        mut bytes: &[u8],
        tick: Tick<'_>,
    ) -> Result<(), ReplicationError> {
        while !bytes.is_empty() {
            tick()?;
            match self.socket.write(bytes) {
                Ok(0) => return Err(ReplicationError::lost("the server takes no more")),
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::Interrupted => {}
                    // What the server said before it closed the connection explains more.
                    _ => {
                        return Err(self
                            .last_words()
                            .unwrap_or_else(|| ReplicationError::lost(error.to_string())));
                    }
                },
            }
        }
        Ok(())
    }

    fn last_words(&self) -> Option<ReplicationError> {
        while let Ok(Ok(incoming)) = self.incoming.recv_timeout(TICK) {
            if let Incoming::Message(Message::ErrorResponse(body)) = incoming {
                return super::error::ServerError::read(body.fields())
                    .ok()
                    .map(|error| Box::new(error).into());
            }
        }
        None
    }

    /// The next message.
    pub(super) fn next(&mut self, tick: Tick<'_>) -> Result<Incoming, ReplicationError> {
        match receive(&self.incoming, tick)? {
            Outcome::Sent(incoming) => incoming,
            Outcome::Gone => Err(ReplicationError::lost("it was closed before")),
        }
    }

    /// Asks the server to cancel what it does for us. It may be writing nothing for long, while it waits for a checkpoint
    /// or for WAL, and would not notice that we are gone.
    fn cancel(&self) {
        let Some((process, secret)) = self.key else {
            return;
        };
        let mut request = BytesMut::new();
        frontend::cancel_request(process, secret, &mut request);
        if let Ok(mut socket) = Socket::connect(&self.address)
            && socket.set_write_timeout().is_ok()
        {
            // The server answers nothing, and may be gone.
            let _ = socket.write_all(&request);
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.busy {
            self.cancel();
        } else {
            let mut bytes = BytesMut::new();
            frontend::terminate(&mut bytes);
            // The server notices the closed socket otherwise.
            let _ = self.socket.write(&bytes);
        }
        self.socket.shutdown();
    }
}

/// Reads messages until the connection ends or nobody wants more.
fn read_all(socket: Socket, to: &SyncSender<Result<Incoming, ReplicationError>>) {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, socket);
    let mut batch = Batch::default();
    loop {
        match read_one(&mut reader, &mut batch) {
            // What has come is passed on before more is waited for.
            Ok(None) if batch.bytes.len() < BATCH_BYTES && !reader.buffer().is_empty() => {}
            Ok(message) => {
                let batch = std::mem::take(&mut batch);
                if !batch.ends.is_empty() && to.send(Ok(Incoming::Copy(batch))).is_err() {
                    return;
                }
                if let Some(message) = message
                    && to.send(Ok(Incoming::Message(message))).is_err()
                {
                    return;
                }
            }
            Err(error) => {
                // Nobody may be there to hear it.
                let _ = to.send(Err(error));
                return;
            }
        }
    }
}

/// Reads a message; copied data goes into the batch.
fn read_one(
    reader: &mut BufReader<Socket>,
    batch: &mut Batch,
) -> Result<Option<Message>, ReplicationError> {
    let mut header = [0; 5];
    let lost = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ReplicationError::lost("the server closed it"),
        _ => ReplicationError::lost(error.to_string()),
    };
    reader.read_exact(&mut header).map_err(lost)?;
    let [tag, length @ ..] = header;
    let body = (u32::from_be_bytes(length) as usize)
        .checked_sub(4)
        .filter(|body| *body <= MAX_MESSAGE_BYTES)
        .ok_or_else(|| {
            ReplicationError::protocol(format!(
                "a message says that it has {} bytes",
                u32::from_be_bytes(length)
            ))
        })?;
    if tag == COPY_DATA {
        if batch.bytes.capacity() == 0 {
            batch.bytes.reserve(BATCH_BYTES + (64 << 10));
        }
        append(reader, body, &mut batch.bytes).map_err(lost)?;
        batch.ends.push(batch.bytes.len());
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(5 + body.min(BUFFER_BYTES));
    bytes.extend_from_slice(&header);
    append(reader, body, &mut bytes).map_err(lost)?;
    let mut bytes = BytesMut::from(bytes.as_slice());
    match Message::parse(&mut bytes) {
        Ok(Some(message)) => Ok(Some(message)),
        Ok(None) => Err(ReplicationError::protocol("a message is incomplete")),
        Err(error) => Err(ReplicationError::protocol(error.to_string())),
    }
}

/// Appends exactly so many bytes.
fn append(reader: &mut BufReader<Socket>, mut len: usize, to: &mut Vec<u8>) -> io::Result<()> {
    while len > 0 {
        let ready = match reader.fill_buf() {
            Ok(ready) => ready,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if ready.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let take = ready.len().min(len);
        to.extend_from_slice(ready.get(..take).unwrap_or_default());
        reader.consume(take);
        len -= take;
    }
    Ok(())
}
