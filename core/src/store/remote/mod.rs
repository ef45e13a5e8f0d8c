//! Stores behind a network: S3, Google Cloud Storage, Azure, through the crate `object_store`.

mod call;
mod client;
mod download;
mod errors;
mod http;
mod listing;
mod runtime;
mod upload;

use std::ops::Range;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tokio::task::JoinHandle;

use self::call::{Call, Retries};
use super::config::StoreConfig;
use super::error::{At, ErrorKind, StoreError};
use super::flow::{Flow, answer};
use super::handle::ObjectMeta;
use super::parts::PartSizes;
use super::place::{Service, StorePlace};
use super::secret::Scrubber;
use super::writer::{Feed, Sink};
use crate::wait::Tick;

/// A client and the process that made it: connections are not inherited over `fork`.
struct Client {
    process: u32,
    client: Arc<dyn ObjectStore>,
}

impl Drop for Client {
    fn drop(&mut self) {
        // A parent's connections belong to threads that the child does not have, and to locks that these may have held: they
        // are not touched.
        if self.process != std::process::id() {
            std::mem::forget(Arc::clone(&self.client));
        }
    }
}

/// A store behind a network.
pub(super) struct RemoteStore {
    config: StoreConfig,
    scrubber: Arc<Scrubber>,
    /// What all keys in the bucket begin with, without a slash at its end.
    prefix: String,
    service: Service,
    client: Mutex<Option<Client>>,
}

impl RemoteStore {
    pub(super) fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        let scrubber = config.scrubber();
        let (client, service) = client::build(config).map_err(|detail| {
            StoreError::config(config.url().to_string(), scrubber.scrub(&detail))
        })?;
        Ok(Self {
            scrubber: Arc::new(scrubber),
            prefix: config.url().path(),
            service,
            config: config.clone(),
            client: Mutex::new(Some(Client {
                process: std::process::id(),
                client,
            })),
        })
    }

    pub(super) fn place(&self, url: &str) -> StorePlace {
        StorePlace::remote(url, &self.service)
    }

    pub(super) fn put(
        &self,
        at: At,
        bytes: Vec<u8>,
        new: bool,
        tick: Tick<'_>,
    ) -> Result<(), StoreError> {
        let payload = upload::payload(bytes.into());
        self.run(at, tick, move |call| async move {
            if !new {
                return call.put(payload).await;
            }
            // Not tried again from here: a second answer would not be about this request alone.
            let options = PutOptions::from(PutMode::Create);
            let put = call.client.put_opts(&call.path, payload, options).await;
            let Err(error) = put.map_err(|error| call.failed(&error)) else {
                return Ok(());
            };
            // A server that refuses what is there already may do so before it has read all, and break the connection.
            let broken = error.kind() == ErrorKind::Unreachable;
            if broken && call.client.head(&call.path).await.is_ok() {
                return Err(call.error(ErrorKind::AlreadyExists, error.detail()));
            }
            Err(error)
        })
    }

    pub(super) fn get_range(
        &self,
        at: At,
        range: Range<u64>,
        tick: Tick<'_>,
    ) -> Result<Vec<u8>, StoreError> {
        let (flow, _) = self.flow(at, tick, Some(range))?;
        let mut flow = flow;
        let mut bytes = Vec::new();
        while let Some(piece) = flow.next(tick)? {
            bytes.extend_from_slice(&piece.value);
        }
        Ok(bytes)
    }

    pub(super) fn reader(&self, at: At, tick: Tick<'_>) -> Result<(Flow<Bytes>, u64), StoreError> {
        self.flow(at, tick, None)
    }

    pub(super) fn head(&self, at: At, tick: Tick<'_>) -> Result<ObjectMeta, StoreError> {
        let key = at.key.clone().unwrap_or_default();
        self.run(at, tick, move |call| async move {
            let meta = call.again(|| call.client.head(&call.path)).await?;
            Ok(download::meta(key, &meta))
        })
    }

    pub(super) fn list(&self, at: At, prefix: &str) -> Result<Flow<Vec<ObjectMeta>>, StoreError> {
        let (sender, pieces) = channel();
        let below = match prefix {
            "" => self.prefix.clone(),
            _ => self.full(prefix),
        };
        let call = self.call(&at, &below)?;
        let strip = match self.prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let task = self.spawn(&at, download::list(call, strip, sender))?;
        Ok(Flow::new(pieces, at, task))
    }

    pub(super) fn delete(&self, at: At, tick: Tick<'_>) -> Result<(), StoreError> {
        self.run(at, tick, move |call| async move {
            match call.again(|| call.client.delete(&call.path)).await {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                deleted => deleted,
            }
        })
    }

    pub(super) fn writer(&self, at: At, sizes: PartSizes) -> Result<Sink, StoreError> {
        let call = self.object(&at)?;
        let (feed, orders) = tokio::sync::mpsc::unbounded_channel();
        let (sender, progress) = channel();
        // Not ended with the writer: the task knows by the closed channel, and aborts the upload.
        runtime::get()
            .map_err(|error| no_thread(&at, &error))?
            .spawn(upload::stream(call, orders, sender));
        Ok(Sink::new(Feed::Task(feed), progress, sizes, at, None))
    }

    fn flow(
        &self,
        at: At,
        tick: Tick<'_>,
        range: Option<Range<u64>>,
    ) -> Result<(Flow<Bytes>, u64), StoreError> {
        let call = self.object(&at)?;
        let (size_sender, size): (_, Receiver<Result<u64, StoreError>>) = channel();
        let (sender, pieces) = channel();
        let task = self.spawn(&at, download::stream(call, range, size_sender, sender))?;
        let size = answer(&size, &at, tick)?;
        Ok((Flow::new(pieces, at, task), size))
    }

    /// Runs a request on the runtime and waits for it; given up, the request is dropped, and its connection closed.
    fn run<T, F>(
        &self,
        at: At,
        tick: Tick<'_>,
        request: impl FnOnce(Call) -> F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let request = request(self.object(&at)?);
        let (sender, result) = channel();
        let _task = self.spawn(&at, async move {
            // The caller may have gone.
            let _ = sender.send(request.await);
        })?;
        answer(&result, &at, tick)
    }

    fn spawn(
        &self,
        at: &At,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Task, StoreError> {
        let runtime = runtime::get().map_err(|error| no_thread(at, &error))?;
        Ok(Task(runtime.spawn(work)))
    }

    fn object(&self, at: &At) -> Result<Call, StoreError> {
        let key = at.key.as_deref().unwrap_or_default();
        self.call(at, &self.full(key))
    }

    fn call(&self, at: &At, path: &str) -> Result<Call, StoreError> {
        let path =
            Path::parse(path).map_err(|error| at.error(ErrorKind::Config, error.to_string()))?;
        Ok(Call {
            client: self.client(at)?,
            path,
            at: at.clone(),
            scrubber: Arc::clone(&self.scrubber),
            retries: Retries {
                most: self.config.max_retries,
                within: self.config.retry_timeout,
            },
        })
    }

    fn full(&self, key: &str) -> String {
        match self.prefix.as_str() {
            "" => key.to_owned(),
            prefix => format!("{prefix}/{key}"),
        }
    }

    fn client(&self, at: &At) -> Result<Arc<dyn ObjectStore>, StoreError> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let process = std::process::id();
        if let Some(known) = &*client
            && known.process == process
        {
            return Ok(Arc::clone(&known.client));
        }
        let (made, _) = client::build(&self.config)
            .map_err(|detail| at.error(ErrorKind::Config, self.scrubber.scrub(&detail)))?;
        *client = Some(Client {
            process,
            client: Arc::clone(&made),
        });
        Ok(made)
    }
}

fn no_thread(at: &At, error: &std::io::Error) -> StoreError {
    at.error(
        ErrorKind::Other,
        format!("no thread could be started: {error}"),
    )
}

/// A task that ends when nobody waits for it any more.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
