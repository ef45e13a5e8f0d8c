//! Servers that are broken or hostile: an error, never a panic, and never for ever.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod backup_common;
mod store_common;

use std::cell::Cell;
use std::time::{Duration, Instant};

use backup_common::*;
use proptest::prelude::*;
use varve_core::replication::{ArchiveEvent, BaseBackupOptions, ReplicationError, Session};
use varve_core::wait::{Stopped, never};

fn connected(answer: Vec<u8>) -> Result<Session, ReplicationError> {
    let directory = tempfile::tempdir().unwrap();
    let info = serve(directory.path(), move |_, _| answer.clone());
    // A server that answers nothing more is not waited for.
    let end = Instant::now() + Duration::from_secs(2);
    Session::connect(&info, &|| match Instant::now() < end {
        true => Ok(()),
        false => Err(Stopped::new("too long")),
    })
}

fn refused(answer: Vec<u8>) -> ReplicationError {
    connected(answer).err().unwrap()
}

#[test]
fn broken_messages() {
    let length = |n: u32| [&b"R"[..], &n.to_be_bytes(), b"abcdefgh"].concat();
    for answer in [
        length(0),
        length(3),
        length(u32::MAX),
        length(1 << 30),
        message(b'R', b""),
        message(b'R', &[0, 0, 0, 99]),
        message(b'R', &[0, 0, 0, 5]),
        message(b'?', b"x"),
        message(b'E', b"M\xff\xfe"),
        message(b'D', b"\0\x01\0\0\xff\xff"),
        message(b'd', b"x"),
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
    ] {
        let error = refused(answer.clone());
        let expected = matches!(
            error,
            ReplicationError::Protocol { .. } | ReplicationError::Config { .. }
        );
        assert!(expected, "{answer:?}: {error}");
    }
}

#[test]
fn errors_of_the_server_are_kept() {
    let body = b"SFATAL\0VFATAL\0C28000\0Mno pg_hba.conf entry for \xff\0Dd\0Hh\0\0";
    let error = refused(message(b'E', body));
    assert_eq!(error.sqlstate(), Some("28000"));
    assert!(error.hint().unwrap().contains("local replication me peer"));
    let error = refused(message(
        b'E',
        b"VFATAL\0C57P03\0Mstarting up\0Dwait\0Ha hint\0\0",
    ));
    assert_eq!(error.hint(), Some("a hint"));
    assert!(error.to_string().contains("starting up; wait"), "{error}");
}

#[test]
fn passwords_that_are_missing() {
    for kind in [3u32, 5, 10] {
        let body = match kind {
            5 => [&kind.to_be_bytes()[..], b"salt"].concat(),
            10 => [&kind.to_be_bytes()[..], b"SCRAM-SHA-256\0\0"].concat(),
            _ => kind.to_be_bytes().to_vec(),
        };
        let error = refused(message(b'R', &body));
        assert!(
            error.to_string().contains("asks for the password of me"),
            "{error}"
        );
    }
    let error = refused(message(b'R', &7u32.to_be_bytes()));
    assert!(error.to_string().contains("not supported"), "{error}");
}

#[test]
fn a_silent_server_is_left_when_the_tick_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let info = serve(directory.path(), |_, _| Vec::new());
    let asked = Cell::new(0);
    let begun = Instant::now();
    let error = Session::connect(&info, &|| {
        asked.set(asked.get() + 1);
        match asked.get() {
            ..20 => Ok(()),
            _ => Err(Stopped::new("enough")),
        }
    });
    assert!(matches!(error.err(), Some(ReplicationError::Cancelled(_))));
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn backups_that_are_not_understood() {
    let start = [row(&[Some("0/1"), Some("1")]), row(&[None, None, None])].concat();
    let copy = message(b'H', &[0, 0, 0]);
    for answer in [
        row(&[Some("x"), Some("1")]),
        row(&[Some("0/1")]),
        [
            row(&[Some("0/1"), Some("1")]),
            row(&[Some("-1"), None, None]),
        ]
        .concat(),
        [start.clone(), message(b'G', &[0, 0, 0])].concat(),
        [&start[..], &copy, &message(b'd', b"")].concat(),
        [&start[..], &copy, &message(b'd', b"?")].concat(),
        [&start[..], &copy, &message(b'd', b"p123")].concat(),
        [&start[..], &copy, &message(b'd', b"nbase.tar")].concat(),
        [&start[..], &copy, &message(b'd', b"n\xff\0\0")].concat(),
        [&start[..], &copy, &message(b'Z', b"I")].concat(),
        [&start[..], &copy, &message(b'd', &vec![b'd'; 5 << 20])].concat(),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let info = serve(directory.path(), move |number, _| match number {
            0 => welcome(),
            _ => answer.clone(),
        });
        let mut session = Session::connect(&info, &never).unwrap();
        let result = session
            .base_backup(&BaseBackupOptions::default(), &never)
            .and_then(|mut backup| backup.next(&never).map(|event| event == ArchiveEvent::End));
        assert!(
            matches!(result, Err(ReplicationError::Protocol { .. })),
            "{result:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a server answers to a command, it is rows or an error.
    #[test]
    fn any_bytes(answer in proptest::collection::vec(any::<u8>(), 0..200), kind in proptest::sample::select(b"RTDCEZHGdcNS".to_vec())) {
        let directory = tempfile::tempdir().unwrap();
        let answer = [message(kind, &answer), message(b'?', b"")].concat();
        let info = serve(directory.path(), move |number, _| match number {
            0 => welcome(),
            _ => answer.clone(),
        });
        let mut session = Session::connect(&info, &never).unwrap();
        prop_assert!(session.identify(&never).is_err());
    }
}

/// A session for SQL is in a database, and takes rows, copied data and errors as they come.
#[test]
fn statements_and_copies() {
    let directory = tempfile::tempdir().unwrap();
    let info = serve(directory.path(), |number, text| match (number, text) {
        (0, start) => {
            assert!(start.contains("database\0here\0"), "{start:?}");
            assert!(!start.contains("replication"), "{start:?}");
            welcome()
        }
        (_, "SELECT") => [row(&[Some("1"), None]), ready()].concat(),
        (_, "COPY") => {
            let pieces = [message(b'd', b"one\n"), message(b'd', b"two\n")].concat();
            let end = [message(b'c', b""), message(b'C', b"COPY 2\0"), ready()].concat();
            [message(b'H', &[0, 0, 0]), pieces, end].concat()
        }
        _ => [message(b'E', b"SERROR\0C42601\0Mno\0\0"), ready()].concat(),
    });
    let mut session = Session::connect(&info.with_database("here"), &never).unwrap();
    let rows = session.query("SELECT", &never).unwrap();
    assert_eq!(rows, [[Some("1".to_owned()), None]]);
    let mut got = Vec::new();
    let mut each = |bytes: &[u8]| {
        got.push(bytes.to_vec());
        Ok(())
    };
    session.copy_out("COPY", &mut each, &never).unwrap();
    assert_eq!(got, [b"one\n", b"two\n"]);
    assert_eq!(session.query("SELECT", &never).unwrap().len(), 1);
    let error = session.query("nonsense", &never).unwrap_err();
    assert_eq!(error.sqlstate(), Some("42601"));
}
