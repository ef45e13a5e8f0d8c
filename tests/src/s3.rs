//! A real S3 server on the loopback interface, over a directory.

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use tokio::runtime::Runtime;

/// The key that it takes.
pub const KEY: &str = "AKIDVARVETEST";
/// The secret of that key.
pub const SECRET: &str = "s3cr3t+of/varve-tests==";
/// The bucket that is there from the beginning.
pub const BUCKET: &str = "backups";

/// A server that runs until it is dropped; what was sent to it stays in the directory.
pub struct S3Server {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl S3Server {
    /// Starts a server at a free port; the bucket is made.
    pub fn start(directory: &Path) -> io::Result<Self> {
        Self::start_at(directory, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Starts a server where another was.
    pub fn start_at(directory: &Path, address: SocketAddr) -> io::Result<Self> {
        std::fs::create_dir_all(directory.join(BUCKET))?;
        // The standard library binds with SO_REUSEADDR, so that the address can be had again at once.
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let files = s3s_fs::FileSystem::new(directory)
            .map_err(|e| io::Error::other(format!("{}: {e:?}", directory.display())))?;
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = service.build();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let guard = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        drop(guard);
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    // A connection that breaks is what some tests want.
                    let _ = Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        Ok(Self {
            address,
            runtime: Some(runtime),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for S3Server {
    /// Ends it as a kill would: connections are cut off where they are.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        }
    }
}
