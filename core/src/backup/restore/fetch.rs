//! An archive as it comes from the stores: its frames are fetched and decompressed by several threads, and those that a store
//! has damaged come from the next one.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use zstd::bulk;

use super::super::error::BackupError;
use super::super::record::StoredObject;
use super::super::seal::{at, open};
use super::super::tar::Pieces;
use super::Repaired;
use super::buffers::Buffers;
use crate::seal::Identities;
use crate::store::Store;
use crate::wait::{Outcome, Stopped, Tick, receive, without_signals};

/// How much is fetched at once, in compressed bytes, if a frame is not larger.
const GROUP_BYTES: u64 = 4 << 20;

/// Plain bytes of the frames that are fetched together: zeros become next to nothing when they are compressed.
const GROUP_PLAIN_BYTES: u64 = 32 << 20;

/// How much is read at once of an archive that can only be read from its beginning on.
const STREAM_BYTES: usize = 1 << 20;

/// Most threads.
const MAX_THREADS: usize = 32;

/// Frames that a thread has ready.
const READY: usize = 2;

/// The stores, and what was found wrong with them.
pub(super) struct Source<'s> {
    stores: Vec<Asked<'s>>,
    threads: usize,
    pub(super) identities: Option<&'s Identities>,
    repaired: Mutex<Vec<Repaired>>,
}

/// A store, and whether it was away when it was asked last: then the others are asked first, since each question takes as long
/// as it is tried again.
struct Asked<'s> {
    store: &'s Store,
    away: AtomicBool,
}

/// What is done with an archive's bytes; again from the beginning, where a store's turned out to be wrong.
pub(super) type Use<'u> = &'u mut dyn FnMut(&mut dyn Pieces) -> Result<(), BackupError>;

impl<'s> Source<'s> {
    pub(super) fn new(
        stores: &[&'s Store],
        threads: usize,
        identities: Option<&'s Identities>,
    ) -> Self {
        let asked = |store: &&'s Store| Asked {
            store,
            away: AtomicBool::new(false),
        };
        Self {
            stores: stores.iter().map(asked).collect(),
            threads,
            identities,
            repaired: Mutex::new(Vec::new()),
        }
    }

    /// What was damaged or missing in a store and came from another.
    pub(super) fn repaired(self) -> Vec<Repaired> {
        let repaired = self.repaired.into_inner();
        repaired.unwrap_or_else(PoisonError::into_inner)
    }

    /// The stores with their numbers, in the order in which they are asked: from that of a number on, and those that are away
    /// last.
    fn order(&self, first: usize) -> Vec<(usize, &Asked<'s>)> {
        let all: Vec<(usize, &Asked<'s>)> = self.stores.iter().enumerate().collect();
        let (before, after) = all.split_at_checked(first).unwrap_or((&[], &all));
        let mut order: Vec<_> = after.iter().chain(before).copied().collect();
        order.sort_by_key(|(_, asked)| asked.away.load(Ordering::Relaxed));
        order
    }

    /// Asks one store after the other until one has an object undamaged.
    ///
    /// # Errors
    /// That of the first one.
    pub(super) fn ask<T>(
        &self,
        first: usize,
        key: &str,
        ask: &mut dyn FnMut(usize, &'s Store) -> Result<T, BackupError>,
    ) -> Result<T, BackupError> {
        let mut worst: Option<BackupError> = None;
        for (number, Asked { store, away }) in self.order(first) {
            match ask(number, store) {
                Err(error) if error.is_the_stores() => {
                    let its = matches!(&error, BackupError::Store(e) if e.store() == store.url());
                    if its && error.is_unreachable() {
                        away.store(true, Ordering::Relaxed);
                    }
                    self.note(store, key, error.to_string());
                    worst.get_or_insert(error);
                }
                result => return result,
            }
        }
        Err(worst.unwrap_or_else(|| BackupError::NotFound {
            what: key.to_owned(),
        }))
    }

    fn note(&self, store: &Store, key: &str, detail: String) {
        let mut repaired = self.repaired.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |r: &Repaired| r.store == store.url() && r.key == key;
        if !repaired.iter().any(known) {
            repaired.push(Repaired {
                store: store.url().to_owned(),
                key: key.to_owned(),
                detail,
            });
        }
    }

    /// Reads an archive, from each store in turn until it was read whole.
    pub(super) fn archive(
        &self,
        object: &StoredObject,
        encrypted: bool,
        use_: Use<'_>,
        tick: Tick<'_>,
    ) -> Result<(), BackupError> {
        self.ask(0, &object.key, &mut |number, store| match encrypted {
            true => self.sequential(store, object, use_, tick),
            false => self.parallel(number, object, use_, tick),
        })
    }

    fn sequential(
        &self,
        store: &Store,
        object: &StoredObject,
        use_: Use<'_>,
        tick: Tick<'_>,
    ) -> Result<(), BackupError> {
        let stored = store.get_stream(&object.key, tick)?;
        let name = at(store, &object.key);
        let plain = open(
            stored,
            &name,
            true,
            self.identities,
            Some(object.raw_bytes),
            tick,
        )?;
        use_(&mut Stream(plain))
    }

    fn parallel(
        &self,
        number: usize,
        object: &StoredObject,
        use_: Use<'_>,
        tick: Tick<'_>,
    ) -> Result<(), BackupError> {
        let groups = groups(object);
        let threads = self.threads.clamp(1, MAX_THREADS).min(groups.len().max(1));
        let given_up = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _give_up = GiveUp(&given_up);
            let mut ways = Vec::new();
            for thread in 0..threads {
                let (sender, receiver) = sync_channel(READY);
                ways.push(receiver);
                let mine: Vec<&Group> = groups.iter().skip(thread).step_by(threads).collect();
                let given_up = &given_up;
                let run = move || self.work(&mine, object, number, &sender, given_up);
                without_signals(|| {
                    std::thread::Builder::new()
                        .name("varve-restore".to_owned())
                        .spawn_scoped(scope, run)
                })
                .and_then(|spawned| spawned.map(drop))
                .map_err(BackupError::thread)?;
            }
            let frames = groups
                .iter()
                .enumerate()
                .flat_map(|(n, group)| std::iter::repeat_n(n % threads, group.plain.len()))
                .collect();
            use_(&mut Frames {
                ways,
                frames,
                next: 0,
                tick,
            })
        })
    }

    /// What a thread does: its groups, one after the other.
    fn work(
        &self,
        groups: &[&Group],
        object: &StoredObject,
        first: usize,
        to: &SyncSender<Result<Bytes, BackupError>>,
        given_up: &AtomicBool,
    ) {
        let ended = || Stopped::new("the restore has ended");
        let tick = || match given_up.load(Ordering::Acquire) {
            false => Ok(()),
            true => Err(ended()),
        };
        let buffers = Buffers::default();
        for group in groups {
            let mut send = |frame| to.send(Ok(frame)).map_err(|_| ended().into());
            if let Err(error) = self.group(group, object, first, &buffers, &mut send, &tick) {
                // Nobody may be there to hear it.
                let _ = to.send(Err(error));
                return;
            }
        }
    }

    /// Sends a group's frames, from the first store that has them undamaged: the one whose turn it is, if it does. What one store
    /// has sent is not asked of the next.
    fn group(
        &self,
        group: &Group,
        object: &StoredObject,
        first: usize,
        buffers: &Buffers,
        send: &mut dyn FnMut(Bytes) -> Result<(), BackupError>,
        tick: Tick<'_>,
    ) -> Result<(), BackupError> {
        let mut rest = group.clone();
        self.ask(first, &object.key, &mut |_, store| {
            let bytes = store.get_range(&object.key, rest.stored.clone(), tick)?;
            rest.open(&bytes, &at(store, &object.key), buffers, send)
        })
    }
}

/// Frames that are fetched together.
#[derive(Clone)]
struct Group {
    /// Where they lie.
    stored: Range<u64>,
    /// Compressed and plain bytes of each.
    plain: VecDeque<(usize, usize)>,
}

/// Cuts an archive into groups of frames.
fn groups(object: &StoredObject) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let (mut stored_at, mut left) = (0, object.raw_bytes);
    for stored in &object.frames {
        let plain = left.min(object.frame_bytes);
        left -= plain;
        let end = stored_at + u64::from(*stored);
        let frame = (*stored as usize, plain as usize);
        match groups.last_mut() {
            Some(group)
                if end - group.stored.start <= GROUP_BYTES
                    && group.plain_bytes() + plain <= GROUP_PLAIN_BYTES =>
            {
                group.stored.end = end;
                group.plain.push_back(frame);
            }
            _ => groups.push(Group {
                stored: stored_at..end,
                plain: VecDeque::from([frame]),
            }),
        }
        stored_at = end;
    }
    groups
}

impl Group {
    /// Plain bytes of all.
    fn plain_bytes(&self) -> u64 {
        self.plain.iter().map(|(_, plain)| *plain as u64).sum()
    }

    /// Decompresses the frames, and hands on each, of which only those are left in the group that were not.
    fn open(
        &mut self,
        bytes: &[u8],
        name: &str,
        buffers: &Buffers,
        send: &mut dyn FnMut(Bytes) -> Result<(), BackupError>,
    ) -> Result<(), BackupError> {
        let wrong = |detail: String| BackupError::corrupt(name, detail);
        let mut context = bulk::Decompressor::new().map_err(|error| BackupError::Io {
            path: "zstd".to_owned(),
            error,
        })?;
        let mut rest = bytes;
        while let Some((stored, plain)) = self.plain.front().copied() {
            let (frame, after) = rest
                .split_at_checked(stored)
                .ok_or_else(|| wrong("it is cut short".to_owned()))?;
            rest = after;
            let mut out = buffers.take(plain);
            context
                .decompress_to_buffer(frame, &mut out.bytes)
                .map_err(|error| wrong(format!("zstd: {error}")))?;
            let len = out.bytes.len();
            if len != plain {
                return Err(wrong(format!(
                    "a frame holds {len} bytes instead of {plain}"
                )));
            }
            send(Bytes::from_owner(out))?;
            self.stored.start += stored as u64;
            self.plain.pop_front();
        }
        Ok(())
    }
}

/// Tells the threads to end, when it is dropped.
struct GiveUp<'g>(&'g AtomicBool);

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The frames in their order.
struct Frames<'f> {
    ways: Vec<Receiver<Result<Bytes, BackupError>>>,
    /// By which way each frame comes.
    frames: Vec<usize>,
    next: usize,
    tick: Tick<'f>,
}

impl Frames<'_> {
    fn frame(&mut self) -> Result<Option<Bytes>, BackupError> {
        let Some(way) = self.frames.get(self.next) else {
            return Ok(None);
        };
        self.next += 1;
        let way = self.ways.get(*way).ok_or_else(BackupError::ended_early)?;
        match receive(way, self.tick)? {
            Outcome::Sent(frame) => frame.map(Some),
            Outcome::Gone => Err(BackupError::ended_early()),
        }
    }
}

impl Pieces for Frames<'_> {
    fn piece(&mut self) -> io::Result<Option<Bytes>> {
        self.frame().map_err(io::Error::other)
    }
}

/// A stream in pieces of at most a mebibyte.
struct Stream<R>(R);

impl<R: Read> Pieces for Stream<R> {
    fn piece(&mut self) -> io::Result<Option<Bytes>> {
        let mut piece = Vec::with_capacity(STREAM_BYTES);
        (&mut self.0)
            .take(STREAM_BYTES as u64)
            .read_to_end(&mut piece)?;
        Ok((!piece.is_empty()).then(|| Bytes::from(piece)))
    }
}
