//! HTTP to the API server: one HTTP/2 connection for everything, or a connection for each request where the server has only
//! HTTP/1.1.
//!
//! ```text
//!  call, open ──► Slot (one HTTP/2 sender, or none) ──► task that drives the connection
//! ```
//! The task ends with its connection, which ends when the last sender and the last open body are dropped, or when the server
//! does not answer a ping.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::config::{Access, Source};
use super::tls;
use crate::store::Error;

/// TCP, TLS and HTTP/2 together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// One request with its answer. The API server itself gives its etcd 10 s and more; a slower answer is an outage for us.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server that asks to be asked again later is asked.
const RETRY_LIMIT: Duration = Duration::from_secs(15);
/// Where the server does not say how long to wait (client-go waits 1 s).
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);
/// A token's file is read again after this, as in client-go: service account tokens are renewed on disk.
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// Pings find a dead server under an idle watch.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Data that may wait for one reader, and for all of them: a watch whose reader is slow must not stop the others.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;

pub const JSON: &str = "application/json";
pub const MERGE_PATCH: &str = "application/merge-patch+json";

/// A request; the path starts with `/api`.
pub struct Request {
    pub method: Method,
    pub path: String,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

impl Request {
    pub fn get(path: String) -> Self {
        Self { method: Method::GET, path, content_type: JSON, body: Vec::new() }
    }
}

/// A whole answer.
pub struct Answer {
    pub status: u16,
    pub body: Bytes,
    /// The server asks to be asked again after this: it has not begun with the request.
    retry_after: Option<Duration>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// The request did not reach the server.
    NotSent(Error),
    /// The server may have acted on it.
    NoAnswer(String),
}

impl Failure {
    /// The error of a read, which changes nothing whatever became of it.
    pub fn of_read(self) -> Error {
        match self {
            Self::NotSent(error) => error,
            Self::NoAnswer(why) => Error::Unavailable(why),
        }
    }

    /// The error of a write.
    pub fn of_write(self) -> Error {
        match self {
            Self::NotSent(error) => error,
            Self::NoAnswer(why) => Error::Unknown(why),
        }
    }
}

/// How one attempt failed.
enum Attempt {
    /// There is no connection, and none can be made.
    Unreachable(Error),
    /// The connection was found dead before the request was on it.
    Stale(String),
    Unanswered(String),
}

/// A client of one API server.
pub struct Client {
    access: Access,
    slot: tokio::sync::Mutex<Slot>,
    token: Mutex<Option<(String, Instant)>>,
}

#[derive(Default)]
struct Slot {
    http2: Option<http2::SendRequest<Full<Bytes>>>,
    /// When the last connection could not be made, and why: those who waited for it need not try too.
    failure: Option<(Instant, Error)>,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    pub fn new(access: Access) -> Self {
        Self { access, slot: tokio::sync::Mutex::default(), token: Mutex::default() }
    }

    /// `https://10.0.0.1:6443`.
    pub fn server(&self) -> String {
        self.access.server.to_string()
    }

    /// The whole answer to a request, whatever its status. Tries again what surely was not acted on: a request that met a dead
    /// connection, one that the server wants later (429, or any 5xx with Retry-After), a read, and one refused with a token
    /// that has been renewed since.
    pub async fn call(&self, request: &Request) -> Result<Answer, Failure> {
        let give_up = Instant::now() + RETRY_LIMIT;
        let (mut has_reconnected, mut has_renewed) = (false, false);
        loop {
            let answer = match timeout(REQUEST_TIMEOUT, self.exchange(request)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(Attempt::Unreachable(error))) => return Err(Failure::NotSent(error)),
                Ok(Err(Attempt::Stale(_))) if !has_reconnected => {
                    has_reconnected = true;
                    continue;
                }
                Ok(Err(Attempt::Unanswered(_))) if !has_reconnected && request.method == Method::GET => {
                    has_reconnected = true;
                    continue;
                }
                Ok(Err(Attempt::Stale(why))) => {
                    return Err(Failure::NotSent(Error::Unavailable(self.lost(&why))));
                }
                Ok(Err(Attempt::Unanswered(why))) => return Err(Failure::NoAnswer(self.lost(&why))),
                Err(_) => {
                    let why = format!("no answer within {} s", REQUEST_TIMEOUT.as_secs());
                    return Err(Failure::NoAnswer(self.lost(&why)));
                }
            };
            if answer.status == 401 && !has_renewed && self.forget_token() {
                has_renewed = true;
                continue;
            }
            match answer.retry_after {
                Some(wait) if Instant::now() + wait < give_up => sleep(wait).await,
                _ => return Ok(answer),
            }
        }
    }

    /// Begins an answer that does not end: a watch. An error status has its answer in full.
    pub async fn open(&self, request: &Request) -> Result<Result<Lines, Answer>, Failure> {
        let mut has_reconnected = false;
        loop {
            match timeout(REQUEST_TIMEOUT, self.begin(request)).await {
                Ok(Ok(response)) if response.status().is_success() => {
                    return Ok(Ok(Lines { body: response.into_body(), buffer: Vec::new(), searched: 0 }));
                }
                Ok(Ok(response)) => {
                    let answer = match timeout(REQUEST_TIMEOUT, whole(response)).await {
                        Ok(Ok(answer)) => answer,
                        Ok(Err(why)) => return Err(Failure::NoAnswer(self.lost(&why))),
                        Err(_) => return Err(Failure::NoAnswer(self.lost("the answer did not end"))),
                    };
                    if answer.status == 401 && !has_reconnected && self.forget_token() {
                        has_reconnected = true;
                        continue;
                    }
                    return Ok(Err(answer));
                }
                Ok(Err(Attempt::Unreachable(error))) => return Err(Failure::NotSent(error)),
                Ok(Err(Attempt::Stale(_) | Attempt::Unanswered(_))) if !has_reconnected => has_reconnected = true,
                Ok(Err(Attempt::Stale(why) | Attempt::Unanswered(why))) => {
                    return Err(Failure::NoAnswer(self.lost(&why)));
                }
                Err(_) => {
                    let why = format!("no answer within {} s", REQUEST_TIMEOUT.as_secs());
                    return Err(Failure::NoAnswer(self.lost(&why)));
                }
            }
        }
    }

    async fn exchange(&self, request: &Request) -> Result<Answer, Attempt> {
        let response = self.begin(request).await?;
        whole(response).await.map_err(Attempt::Unanswered)
    }

    async fn begin(&self, request: &Request) -> Result<Response<Incoming>, Attempt> {
        let token = self.token().map_err(Attempt::Unreachable)?;
        let sender = self.sender().await?;
        let host = self.access.server.authority();
        let path = format!("{}{}", self.access.server.path, request.path);
        let uri = match &sender {
            Sender::Http1(_) => path,
            Sender::Http2(_) => format!("https://{host}{path}"),
        };
        let mut built = hyper::Request::builder().method(request.method.clone()).uri(uri).header(ACCEPT, JSON);
        built = built.header(USER_AGENT, concat!("tortie/", env!("CARGO_PKG_VERSION")));
        if matches!(sender, Sender::Http1(_)) {
            built = built.header(HOST, host);
        }
        if let Some(token) = token {
            built = built.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if !request.body.is_empty() {
            built = built.header(CONTENT_TYPE, request.content_type);
        }
        let built = built.body(Full::new(Bytes::copy_from_slice(&request.body))).map_err(|e| {
            Attempt::Unreachable(Error::Invalid(format!("{}: cannot ask for {}: {e}", self.server(), request.path)))
        })?;
        match sender {
            Sender::Http1(mut sender) => sender.send_request(built).await.map_err(|e| Attempt::Unanswered(chain(&e))),
            Sender::Http2(mut sender) => {
                sender.ready().await.map_err(|e| Attempt::Stale(chain(&e)))?;
                sender.try_send_request(built).await.map_err(|mut e| {
                    let is_unsent = e.take_message().is_some();
                    let why = chain(e.error());
                    if is_unsent { Attempt::Stale(why) } else { Attempt::Unanswered(why) }
                })
            }
        }
    }

    /// The open connection, or a new one.
    async fn sender(&self) -> Result<Sender, Attempt> {
        let asked = Instant::now();
        let mut slot = self.slot.lock().await;
        if let Some(sender) = slot.http2.as_ref().filter(|s| !s.is_closed()) {
            return Ok(Sender::Http2(sender.clone()));
        }
        slot.http2 = None;
        if let Some((_, error)) = slot.failure.as_ref().filter(|(at, _)| *at > asked) {
            return Err(Attempt::Unreachable(error.clone()));
        }
        let outcome = match timeout(CONNECT_TIMEOUT, self.connect()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.unreachable(&format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()))),
        };
        match outcome {
            Ok(sender) => {
                slot.failure = None;
                if let Sender::Http2(sender) = &sender {
                    slot.http2 = Some(sender.clone());
                }
                Ok(sender)
            }
            Err(error) => {
                slot.failure = Some((Instant::now(), error.clone()));
                Err(Attempt::Unreachable(error))
            }
        }
    }

    async fn connect(&self) -> Result<Sender, Error> {
        let server = &self.access.server;
        let tcp = TcpStream::connect((server.host.as_str(), server.port))
            .await
            .map_err(|e| self.unreachable(&e.to_string()))?;
        let _ = tcp.set_nodelay(true);
        // Without HTTP/2's pings, TCP's find a dead server.
        let keepalive = socket2::TcpKeepalive::new().with_time(PING_INTERVAL).with_interval(PING_TIMEOUT);
        let _ = socket2::SockRef::from(&tcp).set_tcp_keepalive(&keepalive);
        if !server.is_tls {
            return self.http1(tcp).await;
        }
        let connector = TlsConnector::from(Arc::new(tls::client_config(&self.access)?));
        let stream = connector.connect(tls::server_name(&self.access)?, tcp).await.map_err(|e| {
            let text = e.to_string();
            let advice = if text.contains("certificate") {
                "; check the CA (certificate-authority, K8S_CA_FILE) and that the certificate names this host"
            } else {
                ""
            };
            self.unreachable(&format!("TLS: {text}{advice}"))
        })?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.http2(stream).await
        } else {
            self.http1(stream).await
        }
    }

    async fn http1<S>(&self, stream: S) -> Result<Sender, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.unreachable(&chain(&e)))?;
        // Its errors reach those who wait for answers.
        tokio::spawn(connection);
        Ok(Sender::Http1(sender))
    }

    async fn http2<S>(&self, stream: S) -> Result<Sender, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.unreachable(&chain(&e)))?;
        tokio::spawn(connection);
        Ok(Sender::Http2(sender))
    }

    /// The token to show, if any.
    fn token(&self) -> Result<Option<String>, Error> {
        let Some(source) = &self.access.token else { return Ok(None) };
        let mut kept = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((token, _)) = kept.as_ref().filter(|(_, read)| read.elapsed() < TOKEN_LIFE) {
            return Ok(Some(token.clone()));
        }
        let bytes = source.read("token")?;
        let token = String::from_utf8_lossy(&bytes).trim().to_string();
        *kept = Some((token.clone(), Instant::now()));
        Ok(Some(token))
    }

    /// Makes the next request read the token anew; whether it could be another one.
    fn forget_token(&self) -> bool {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
        matches!(self.access.token, Some(Source::File(_)))
    }

    fn unreachable(&self, why: &str) -> Error {
        Error::Unavailable(format!(
            "cannot reach the Kubernetes API server {} ({}): {why}; check that it runs there, and the network between",
            self.access.server, self.access.origin
        ))
    }

    fn lost(&self, why: &str) -> String {
        format!("lost the Kubernetes API server {}: {why}", self.access.server)
    }
}

/// The lines of an answer, as they come.
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    /// So much of the buffer has no line end.
    searched: usize,
}

impl Lines {
    /// The next line; `None` when the server has ended the answer.
    ///
    /// # Errors
    /// Why the connection was lost.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
                let rest = self.buffer.split_off(self.searched + at + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            match self.body.frame().await {
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err("the answer ended within a line".into()),
                Some(Err(e)) => return Err(chain(&e)),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

async fn whole(response: Response<Incoming>) -> Result<Answer, String> {
    let status = response.status().as_u16();
    let header = response.headers().get(RETRY_AFTER).cloned();
    let seconds = header.and_then(|v| v.to_str().ok().and_then(|s| s.trim().parse().ok())).map(Duration::from_secs);
    let retry_after = match status {
        429 => Some(seconds.unwrap_or(RETRY_AFTER_DEFAULT)),
        500.. => seconds,
        _ => None,
    };
    let body = response.into_body().collect().await.map_err(|e| chain(&e))?.to_bytes();
    Ok(Answer { status, body, retry_after })
}

/// An error with its causes: hyper's own text alone says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
