//! A real S3 server on the loopback interface, over a directory.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::runtime::Runtime;
use varve_core::store::{Store, StoreConfig};

pub const KEY: &str = "AKIDVARVETEST";
pub const SECRET: &str = "s3cr3t+of/varve-tests==";
pub const BUCKET: &str = "backups";

/// A server that runs until it is dropped; what was sent to it stays in the directory.
pub struct Server {
    pub address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Server {
    /// Starts a server; the bucket is made.
    pub fn start(directory: &Path) -> Self {
        Self::bind(directory, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Starts a server where another was.
    pub fn start_at(directory: &Path, address: SocketAddr) -> Self {
        Self::bind(directory, address)
    }

    fn bind(directory: &Path, address: SocketAddr) -> Self {
        std::fs::create_dir_all(directory.join(BUCKET)).unwrap();
        // The standard library binds with SO_REUSEADDR, so that the address can be had again at once.
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(directory).unwrap());
        service.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = service.build();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
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
        Self {
            address,
            runtime: Some(runtime),
        }
    }

    /// Options of a store in the bucket, with others instead of or beside them.
    pub fn options<'o>(&self, others: &[(&'o str, &'o str)]) -> Vec<(String, String)> {
        options(self.address, others)
    }

    /// A store in the bucket.
    pub fn store(&self, others: &[(&str, &str)]) -> Store {
        open(&self.options(others))
    }
}

impl Drop for Server {
    /// Ends it as a kill would: connections are cut off where they are.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        }
    }
}

pub fn options(address: SocketAddr, others: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut options = vec![
        ("url".to_owned(), format!("s3://{BUCKET}/some/prefix")),
        ("endpoint".to_owned(), format!("http://{address}")),
        ("allow_http".to_owned(), "true".to_owned()),
        ("access_key_id".to_owned(), KEY.to_owned()),
        ("secret_access_key".to_owned(), SECRET.to_owned()),
    ];
    for (name, value) in others {
        options.retain(|(known, _)| known != name);
        options.push(((*name).to_owned(), (*value).to_owned()));
    }
    options
}

pub fn open(options: &[(String, String)]) -> Store {
    let options = options
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    Store::open(&StoreConfig::from_options(options).unwrap()).unwrap()
}
