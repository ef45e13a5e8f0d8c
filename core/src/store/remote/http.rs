//! The HTTP client beneath `object_store`: hyper and rustls, without a proxy.
//!
//! Time is measured from the last sign of life, not from the beginning, so that a slow line carries large parts: a request is
//! given up when nothing moved for as long as the option `timeout` says.

use std::error::Error;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as Tcp;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::{Instant, Sleep};

use super::errors::text;
use super::listing;

/// Longest time to make a connection, beside the option `timeout`.
const CONNECT: Duration = Duration::from_secs(10);

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);

/// Longest answer: objects are read in ranges, and a page of a listing has at most 5,000 keys.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// Makes clients.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    client: Client<HttpsConnector<Tcp>, Watched>,
    timeout: Duration,
}

impl Connector {
    /// Trusts the certificates that the system trusts (`SSL_CERT_FILE`, `SSL_CERT_DIR`).
    pub(super) fn new(timeout: Duration) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = || {
            ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())
        };
        let tls = match tls()?.with_native_roots() {
            Ok(tls) => tls.with_no_client_auth(),
            // A machine without certificates can still reach a store by plain HTTP.
            Err(_) => tls()?
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth(),
        };
        let mut tcp = Tcp::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT.min(timeout)));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(https);
        Ok(Self { client, timeout })
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let allow = options.get_config_value(&ClientConfigKey::AllowHttp);
        Ok(HttpClient::new(Service {
            client: self.client.clone(),
            timeout: self.timeout,
            allow_http: allow.as_deref() == Some("true"),
        }))
    }
}

/// A client.
#[derive(Debug)]
struct Service {
    client: Client<HttpsConnector<Tcp>, Watched>,
    timeout: Duration,
    allow_http: bool,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if !self.allow_http && request.uri().scheme_str() != Some("https") {
            return Err(HttpError::new(
                HttpErrorKind::Unknown,
                io::Error::other("plain HTTP is not allowed: the option allow_http is not set"),
            ));
        }
        let lists = listing::is_asked_for(&request);
        let (parts, body) = request.into_parts();
        let moved = Arc::new(Mutex::new(Instant::now()));
        let body = Watched {
            body,
            moved: Arc::clone(&moved),
        };
        let last = || *moved.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answer = pin!(self.client.request(http::Request::from_parts(parts, body)));
        let response = loop {
            let deadline = last() + self.timeout;
            match tokio::time::timeout_at(deadline, &mut answer).await {
                Ok(response) => break response.map_err(|error| connection(&error))?,
                Err(_) if last() + self.timeout > deadline => {}
                Err(_) => return Err(stalled(self.timeout)),
            }
        };
        let timeout = self.timeout;
        let response = response.map(|body| {
            HttpResponseBody::new(Bounded {
                body,
                left: MAX_ANSWER_BYTES,
                timeout,
                alarm: Mutex::new(Box::pin(tokio::time::sleep(timeout))),
            })
        });
        if !lists || !response.status().is_success() {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let body = listing::without_foreign(body.bytes().await?);
        Ok(HttpResponse::from_parts(parts, body.into()))
    }
}

/// The body of a request, which notes when the connection took a piece of it.
#[derive(Debug)]
struct Watched {
    body: HttpRequestBody,
    moved: Arc<Mutex<Instant>>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer, which may neither stand still nor grow without end. It tells nobody how long it says it is: memory
/// is had for what has come.
struct Bounded {
    body: Incoming,
    left: u64,
    timeout: Duration,
    /// In a mutex because a body must be `Sync`; nobody else locks it.
    alarm: Mutex<Pin<Box<Sleep>>>,
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        let alarm = this.alarm.get_mut().unwrap_or_else(PoisonError::into_inner);
        match pin!(this.body.frame()).poll(context) {
            Poll::Pending => alarm
                .as_mut()
                .poll(context)
                .map(|()| Some(Err(stalled(this.timeout)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(connection(&error)))),
            Poll::Ready(Some(Ok(frame))) => {
                alarm.as_mut().reset(Instant::now() + this.timeout);
                let len = frame.data_ref().map_or(0, |data| data.len() as u64);
                match this.left.checked_sub(len) {
                    Some(left) => {
                        this.left = left;
                        Poll::Ready(Some(Ok(frame)))
                    }
                    None => Poll::Ready(Some(Err(HttpError::new(
                        HttpErrorKind::Decode,
                        io::Error::other("the answer is too long"),
                    )))),
                }
            }
        }
    }
}

fn stalled(timeout: Duration) -> HttpError {
    let message = format!("nothing moved for {timeout:?}");
    HttpError::new(
        HttpErrorKind::Timeout,
        io::Error::new(io::ErrorKind::TimedOut, message),
    )
}

/// What happened to a connection: before the request was sent, or while it was answered. All of it may be tried again, but
/// for certificates that are not trusted.
fn connection(error: &(dyn Error + 'static)) -> HttpError {
    let mut kind = match error.downcast_ref::<hyper_util::client::legacy::Error>() {
        Some(error) if error.is_connect() => HttpErrorKind::Connect,
        _ => HttpErrorKind::Interrupted,
    };
    let mut cause = Some(error);
    while let Some(error) = cause {
        let certificate = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            .is_some_and(|inner| inner.downcast_ref::<rustls::Error>().is_some());
        if certificate || error.downcast_ref::<rustls::Error>().is_some() {
            kind = HttpErrorKind::Unknown;
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && (error.is_parse() || error.is_user())
        {
            kind = HttpErrorKind::Decode;
        }
        cause = error.source();
    }
    HttpError::new(kind, io::Error::other(text(error)))
}
