//! WAL for a scratch server, fetched from the stores as the server asks for it.
//!
//! The server's `restore_command` is a script that asks by making a file and waits until it is gone; we answer whenever we wait
//! for the server. So neither the program `varve` nor credentials in a file or a command line are needed, and what the server
//! has not replayed yet takes the room of a few segments only.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use varve_core::backup::{self, BackupError, WalName};
use varve_core::seal::Identities;
use varve_core::store::Store;
use varve_core::wait::Tick;

/// How many segments are fetched before they are asked for.
const AHEAD: usize = 4;

/// Asks for a file (`$1`), and moves it to where the server wants it (`$2`). Codes above 125 end the server's start.
const SCRIPT: &str = r#"#!/bin/sh
# Asks for a file of WAL, and waits until it is there or known to be nowhere.
w="${0%/*}/wal/$1"
[ -f "$w.have" ] && exec mv "$w.have" "$2"
: > "$w.want" || exit 200
while [ -e "$w.want" ]; do sleep 0.02; done
[ -f "$w.have" ] && exec mv "$w.have" "$2"
[ -f "$w.none" ] && exit 1
exit 200
"#;

/// Answers a server that asks for WAL.
pub struct Feed<'s> {
    stores: Vec<&'s Store>,
    directory: PathBuf,
    segment_bytes: u64,
    /// Segments with a higher number are not there, whatever the stores have.
    last: u64,
    /// Who can decrypt.
    identities: Option<Identities>,
    ahead: RefCell<VecDeque<WalName>>,
    next: RefCell<Option<WalName>>,
    failed: RefCell<Option<BackupError>>,
    served: Cell<u64>,
}

impl<'s> Feed<'s> {
    /// A feed of the server in a scratch directory; `last` is the number of the last segment that it gets.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(
        stores: Vec<&'s Store>,
        scratch: &Path,
        segment_bytes: u64,
        last: u64,
        identities: Option<Identities>,
    ) -> io::Result<Self> {
        let directory = scratch.join("wal");
        super::place::make_directory(&directory)?;
        fs::write(scratch.join("wal.sh"), SCRIPT)?;
        Ok(Feed {
            stores,
            directory,
            segment_bytes,
            last,
            identities,
            ahead: RefCell::default(),
            next: RefCell::default(),
            failed: RefCell::default(),
            served: Cell::new(0),
        })
    }

    /// The server's `restore_command`.
    pub fn command(scratch: &Path) -> String {
        let script = scratch.join("wal.sh").to_string_lossy().into_owned();
        // PostgreSQL takes a percent sign for the beginning of one of its own, the shell a quote for the end.
        let quoted = script.replace('\'', r"'\''").replace('%', "%%");
        format!("sh '{quoted}' %f \"%p\"")
    }

    /// How many files the server has had.
    pub fn served(&self) -> u64 {
        self.served.get()
    }

    /// Why a file could not be fetched, if that has happened: the server has ended then.
    pub fn failure(&self) -> Option<BackupError> {
        self.failed.take()
    }

    /// Answers what is asked, else fetches a segment ahead; to be called often.
    ///
    /// # Errors
    /// What the system says, and what the tick answers. A store's error is the server's to hear, and kept for
    /// [`Feed::failure`].
    pub fn serve(&self, tick: Tick<'_>) -> Result<(), BackupError> {
        let failed = |error| BackupError::Io {
            path: self.directory.display().to_string(),
            error,
        };
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let name = name.to_string_lossy();
            let Some(wanted) = name.strip_suffix(".want") else {
                continue;
            };
            // Only names that PostgreSQL archives can be had.
            if let Ok(wanted) = wanted.parse::<WalName>() {
                self.answer(&wanted, tick)?;
            }
            return fs::remove_file(self.directory.join(name.as_ref())).map_err(failed);
        }
        self.look_ahead(tick)
    }

    fn place(&self, name: &WalName, state: &str) -> PathBuf {
        self.directory.join(format!("{name}.{state}"))
    }

    fn answer(&self, name: &WalName, tick: Tick<'_>) -> Result<(), BackupError> {
        let number = name.number(self.segment_bytes);
        // An earlier start of the server may have been told that there is none.
        let _ = fs::remove_file(self.place(name, "none"));
        let fetched = match number.is_some_and(|number| number > self.last) {
            true => Ok(false),
            false => self.fetch(name, tick),
        };
        match fetched {
            Ok(true) => {
                self.served.set(self.served.get() + 1);
                self.ahead.borrow_mut().clear();
                *self.next.borrow_mut() =
                    number.map(|n| WalName::of_number(name.timeline(), n + 1, self.segment_bytes));
                Ok(())
            }
            Ok(false) => {
                let none = self.place(name, "none");
                fs::write(&none, []).map_err(|error| BackupError::Io {
                    path: none.display().to_string(),
                    error,
                })
            }
            Err(error) if error.is_cancelled() => Err(error),
            Err(error) => {
                self.failed.borrow_mut().get_or_insert(error);
                Ok(())
            }
        }
    }

    /// Whether some store has the file; it is in its place then.
    fn fetch(&self, name: &WalName, tick: Tick<'_>) -> Result<bool, BackupError> {
        let to = self.place(name, "have");
        match backup::fetch_from_any(&self.stores, name, &to, self.identities.as_ref(), tick) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn look_ahead(&self, tick: Tick<'_>) -> Result<(), BackupError> {
        let mut ahead = self.ahead.borrow_mut();
        while let Some(first) = ahead.front() {
            if self.place(first, "have").exists() {
                break;
            }
            self.served.set(self.served.get() + 1);
            ahead.pop_front();
        }
        let Some(next) = self.next.borrow().clone() else {
            return Ok(());
        };
        let number = next.number(self.segment_bytes);
        let Some(number) = number.filter(|n| *n <= self.last && ahead.len() < AHEAD) else {
            return Ok(());
        };
        let after = WalName::of_number(next.timeline(), number + 1, self.segment_bytes);
        *self.next.borrow_mut() = match self.fetch(&next, tick) {
            Ok(true) => {
                ahead.push_back(next);
                Some(after)
            }
            Err(error) if error.is_cancelled() => return Err(error),
            // The server asks for it, if it wants it, and hears what is wrong.
            _ => None,
        };
        Ok(())
    }
}
