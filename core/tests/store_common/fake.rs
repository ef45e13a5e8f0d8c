//! A server of HTTP that answers as it is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

/// What was asked.
pub struct Asked {
    pub method: String,
    /// With the query.
    pub path: String,
    pub headers: String,
    pub body: Vec<u8>,
}

/// What is answered: a status, headers, a body; none breaks the connection.
pub type Answer = Option<(u16, Vec<(&'static str, String)>, Vec<u8>)>;

/// An answer without headers of its own.
pub fn plain(status: u16, body: &str) -> Answer {
    Some((status, Vec::new(), body.as_bytes().to_vec()))
}

/// Starts a server.
pub fn serve(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        while let Ok((client, _)) = listener.accept() {
            let answer = Arc::clone(&answer);
            // A connection ends when the client goes, or an answer breaks it.
            std::thread::spawn(move || while talk(&client, &*answer).is_some() {});
        }
    });
    address
}

fn talk(mut client: &TcpStream, answer: &dyn Fn(&Asked) -> Answer) -> Option<()> {
    let mut reader = BufReader::new(client);
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|got| *got > 0)?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let (mut headers, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        let line = line.to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        headers.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let is_head = method == "HEAD";
    let asked = Asked {
        method,
        path,
        headers,
        body,
    };
    let (status, headers, body) = answer(&asked)?;
    let mut text = format!("HTTP/1.1 {status} x\r\n");
    if !headers.iter().any(|(name, _)| *name == "content-length") {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    client.write_all(text.as_bytes()).ok()?;
    if !is_head {
        client.write_all(&body).ok()?;
    }
    Some(())
}
