//! The status API of the daemons: HTTP and JSON on a unix socket, and the client that the command line and the CNI plugins
//! use. `curl --unix-socket /run/tortie/felix.sock http://felix/v1/status` sees the same.
//!
//! - [`serve`]: an axum router on `<run dir>/<name>.sock`
//! - [`get`], [`post`], [`post_json`], [`get_json`]: one request
//! - [`lines`]: an answer that is read as it comes, line by line

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use http_body_util::{BodyExt, Full};
use hyper::Method;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// Owner and group may talk to a daemon; the group is how an operator gets in without being root.
const SOCKET_MODE: u32 = 0o660;
/// How long an answer may take. A request that asks the daemon to wait for something (`wait_ms`) asks for less.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a socket cannot be served or asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot create the run directory {dir}: {source}; choose another with --run-dir")]
    RunDir { dir: PathBuf, source: std::io::Error },
    #[error("{socket} is in use by a running {name}; stop it, or choose another --run-dir")]
    InUse { socket: PathBuf, name: String },
    #[error("cannot listen on {socket}: {source}")]
    Listen { socket: PathBuf, source: std::io::Error },
    /// Nothing listens: the daemon is not running, or runs with another run directory.
    #[error("nothing answers on {socket} ({source}); is the daemon running, and with this --run-dir?")]
    NotRunning { socket: PathBuf, source: std::io::Error },
    /// Whether the daemon runs is not known.
    #[error(
        "no permission for {socket}; it is open to its owner and its group: run this as root, or as a member of that group"
    )]
    Denied { socket: PathBuf },
    #[error("{socket}{path}: {reason}")]
    Request { socket: PathBuf, path: String, reason: String },
    #[error("{socket}{path} answered {status}: {body}")]
    Refused { socket: PathBuf, path: String, status: u16, body: String },
    /// The daemon says what is wrong with the request.
    #[error("{0}")]
    Said(String),
}

/// A served socket; dropping it stops serving and removes the socket.
pub struct Server {
    socket: PathBuf,
    task: JoinHandle<()>,
}

impl Server {
    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Reply {
    /// The answer if its status is 200.
    ///
    /// # Errors
    /// [`Error::Refused`]
    pub fn ok(self, socket: &Path, path: &str) -> Result<Reply, Error> {
        if self.status == 200 { Ok(self) } else { Err(self.refused(socket, path)) }
    }

    /// A body `{"error": "..."}` is that sentence.
    fn refused(&self, socket: &Path, path: &str) -> Error {
        let json: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        match json.as_ref().and_then(|j| j["error"].as_str()) {
            Some(sentence) => Error::Said(sentence.into()),
            None => {
                let body = String::from_utf8_lossy(&self.body).trim().to_string();
                Error::Refused { socket: socket.into(), path: path.into(), status: self.status, body }
            }
        }
    }
}

/// Serves `router` on `<run_dir>/<name>.sock`. The directory is made; a socket that a dead process left is replaced.
///
/// # Errors
/// [`Error::InUse`] when a live process answers there, others when the file system refuses.
pub async fn serve(run_dir: &Path, name: &str, router: Router) -> Result<Server, Error> {
    std::fs::create_dir_all(run_dir).map_err(|source| Error::RunDir { dir: run_dir.into(), source })?;
    let socket = run_dir.join(format!("{name}.sock"));
    let listen_error = |source| Error::Listen { socket: socket.clone(), source };
    match UnixStream::connect(&socket).await {
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        // Nobody listens any more: what a dead process left.
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(&socket).map_err(listen_error)?,
        // A listener whose queue is full is alive, though it answers nobody.
        Err(e) if e.kind() != ErrorKind::WouldBlock => return Err(listen_error(e)),
        Ok(_) | Err(_) => return Err(Error::InUse { socket, name: name.into() }),
    }
    let listener = UnixListener::bind(&socket).map_err(listen_error)?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(listen_error)?;
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the status socket failed");
        }
    });
    Ok(Server { socket, task })
}

/// Asks `GET path` of the daemon on `socket`.
///
/// # Errors
/// [`Error::NotRunning`] when nothing listens, [`Error::Denied`] when we may not ask; [`Error::Request`] when the exchange fails or takes over 30 s.
pub async fn get(socket: &Path, path: &str) -> Result<Reply, Error> {
    ask(socket, Method::GET, path).await
}

/// Asks `POST path`, without a body.
///
/// # Errors
/// As [`get`].
pub async fn post(socket: &Path, path: &str) -> Result<Reply, Error> {
    ask(socket, Method::POST, path).await
}

/// Asks `POST path` with a body in JSON.
///
/// # Errors
/// As [`get`].
pub async fn post_json<T: Serialize>(socket: &Path, path: &str, body: &T) -> Result<Reply, Error> {
    let body = serde_json::to_vec(body).map_err(|e| failed(socket, path, format!("the request: {e}")))?;
    let exchange = async { send(socket, Method::POST, path, body.into()).await?.whole().await };
    limited(socket, path, exchange).await
}

async fn ask(socket: &Path, method: Method, path: &str) -> Result<Reply, Error> {
    let exchange = async { start(socket, method, path).await?.whole().await };
    limited(socket, path, exchange).await
}

/// Asks `GET path` and reads the answer as JSON.
///
/// # Errors
/// As [`get`]; [`Error::Refused`] for any status but 200.
pub async fn get_json<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, Error> {
    let reply = get(socket, path).await?.ok(socket, path)?;
    serde_json::from_slice(&reply.body)
        .map_err(|e| failed(socket, path, format!("the answer is not what this version reads: {e}")))
}

/// Asks `GET path` for an answer of lines that may be long, or without an end.
///
/// # Errors
/// As [`get_json`]; only the beginning of the answer has a time limit.
pub async fn lines(socket: &Path, path: &str) -> Result<Lines, Error> {
    let lines = limited(socket, path, start(socket, Method::GET, path)).await?;
    if lines.status == 200 {
        return Ok(lines);
    }
    let reply = limited(socket, path, lines.whole()).await?;
    Err(reply.refused(socket, path))
}

async fn limited<T>(socket: &Path, path: &str, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(REQUEST_TIMEOUT, answer).await {
        Ok(result) => result,
        Err(_) => Err(failed(socket, path, format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()))),
    }
}

/// Sends a request without a body, and reads the head of the answer.
async fn start(socket: &Path, method: Method, path: &str) -> Result<Lines, Error> {
    send(socket, method, path, Bytes::new()).await
}

/// Sends a request, and reads the head of the answer. A body is JSON.
async fn send(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<Lines, Error> {
    let stream = UnixStream::connect(socket).await.map_err(|source| unreached(socket, source))?;
    let head = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let driver = Driver(tokio::spawn(connection));
        let mut request = hyper::Request::builder().method(method).uri(path).header(hyper::header::HOST, "localhost");
        if !body.is_empty() {
            request = request.header(hyper::header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body)).map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        Ok((driver, response))
    };
    let (driver, response) = head.await.map_err(|reason| failed(socket, path, reason))?;
    let status = response.status().as_u16();
    let (socket, path) = (socket.to_path_buf(), path.to_string());
    Ok(Lines { socket, path, status, body: response.into_body(), buffer: Vec::new(), used: 0, _driver: driver })
}

fn unreached(socket: &Path, source: std::io::Error) -> Error {
    match source.kind() {
        ErrorKind::PermissionDenied => Error::Denied { socket: socket.into() },
        _ => Error::NotRunning { socket: socket.into(), source },
    }
}

fn failed(socket: &Path, path: &str, reason: String) -> Error {
    Error::Request { socket: socket.into(), path: path.into(), reason }
}

/// The task that moves the octets of an exchange; it ends with it.
struct Driver(JoinHandle<hyper::Result<()>>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer as it comes. Dropping it ends the exchange.
pub struct Lines {
    socket: PathBuf,
    path: String,
    status: u16,
    body: Incoming,
    /// What came and is not handed out yet, from `used` on.
    buffer: Vec<u8>,
    used: usize,
    _driver: Driver,
}

impl Lines {
    /// The next line without its end; `None` after the last.
    ///
    /// # Errors
    /// [`Error::Request`] when the answer breaks off.
    pub async fn next(&mut self) -> Result<Option<String>, Error> {
        loop {
            if let Some(len) = self.buffer[self.used..].iter().position(|&b| b == b'\n') {
                let line = String::from_utf8_lossy(&self.buffer[self.used..self.used + len]).into_owned();
                self.used += len + 1;
                return Ok(Some(line));
            }
            self.buffer.drain(..self.used);
            self.used = 0;
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |d| &d[..])),
                Some(Err(e)) => return Err(failed(&self.socket, &self.path, e.to_string())),
                None if self.buffer.is_empty() => return Ok(None),
                None => self.buffer.push(b'\n'),
            }
        }
    }

    /// The next octets of an answer that has no lines; `None` at its end.
    ///
    /// # Errors
    /// [`Error::Request`] when the answer breaks off.
    pub async fn next_octets(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(octets) = frame.into_data() {
                        return Ok(Some(octets));
                    }
                }
                Some(Err(e)) => return Err(failed(&self.socket, &self.path, e.to_string())),
                None => return Ok(None),
            }
        }
    }

    async fn whole(self) -> Result<Reply, Error> {
        let body = self.body.collect().await.map_err(|e| failed(&self.socket, &self.path, e.to_string()))?;
        Ok(Reply { status: self.status, body: body.to_bytes().to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::{Json, routing};
    use serde_json::json;

    use super::*;

    fn router() -> Router {
        Router::new()
            .route("/v1/double", routing::post(|Json(n): Json<u32>| async move { Json(2 * n) }))
            .route("/v1/n", routing::get(|| async { Json(7) }).post(|| async { Json(8) }))
            .route("/v1/lines", routing::get(|| async { "one\ntwo\n\nlast" }))
            .route("/v1/wrong", routing::get(|| async { (StatusCode::NOT_FOUND, Json(json!({"error": "no such n"}))) }))
    }

    #[tokio::test]
    async fn a_client_reads_what_the_server_says() {
        let dir = tempfile::tempdir().unwrap();
        let server = serve(&dir.path().join("made"), "felix", router()).await.unwrap();
        assert_eq!(get_json::<u32>(server.socket(), "/v1/n").await.unwrap(), 7);
        assert_eq!(post_json(server.socket(), "/v1/double", &21).await.unwrap().body, b"42");
        assert!(matches!(get_json::<u32>(server.socket(), "/nothing").await, Err(Error::Refused { status: 404, .. })));
        let wrong = get_json::<String>(server.socket(), "/v1/n").await.unwrap_err();
        assert!(wrong.to_string().contains("/v1/n"), "{wrong}");
    }

    #[tokio::test]
    async fn lines_come_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let server = serve(dir.path(), "felix", router()).await.unwrap();
        let mut answer = lines(server.socket(), "/v1/lines").await.unwrap();
        for want in [Some("one"), Some("two"), Some(""), Some("last"), None] {
            assert_eq!(answer.next().await.unwrap().as_deref(), want);
        }
        let nothing = lines(server.socket(), "/nothing").await.map(drop).unwrap_err();
        assert!(matches!(nothing, Error::Refused { status: 404, .. }), "{nothing}");
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_in_the_daemons_words() {
        let dir = tempfile::tempdir().unwrap();
        let server = serve(dir.path(), "felix", router()).await.unwrap();
        assert_eq!(post(server.socket(), "/v1/n").await.unwrap().body, b"8");
        let said = get_json::<u32>(server.socket(), "/v1/wrong").await.unwrap_err();
        assert_eq!(said.to_string(), "no such n");
        let said = lines(server.socket(), "/v1/wrong").await.map(drop).unwrap_err();
        assert_eq!(said.to_string(), "no such n");
    }

    /// An operator without rights must not be told that the daemon is down.
    #[test]
    fn a_socket_that_we_may_not_open_does_not_count_as_dead() {
        let socket = Path::new("/run/tortie/bgpd.sock");
        let denied = unreached(socket, ErrorKind::PermissionDenied.into());
        assert!(denied.to_string().starts_with("no permission for /run/tortie/bgpd.sock"), "{denied}");
        for kind in [ErrorKind::NotFound, ErrorKind::ConnectionRefused] {
            assert!(matches!(unreached(socket, kind.into()), Error::NotRunning { .. }), "{kind}");
        }
    }

    #[tokio::test]
    async fn a_live_socket_is_refused_and_a_dead_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let server = serve(dir.path(), "felix", router()).await.unwrap();
        assert!(matches!(serve(dir.path(), "felix", router()).await, Err(Error::InUse { .. })));
        let socket = server.socket().to_path_buf();
        drop(server);
        assert!(!socket.exists());
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert!(socket.exists());
        let server = serve(dir.path(), "felix", router()).await.unwrap();
        assert_eq!(get_json::<u32>(server.socket(), "/v1/n").await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_daemon_that_hangs_keeps_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("felix.sock");
        let _hung = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = UnixStream::connect(&socket).await {
            waiting.push(stream);
        }
        assert!(matches!(serve(dir.path(), "felix", router()).await, Err(Error::InUse { .. })));
        assert!(socket.exists());
    }

    #[tokio::test]
    async fn a_daemon_that_does_not_run_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bgpd.sock");
        let error = get(&socket, "/readyz").await.unwrap_err();
        assert!(matches!(error, Error::NotRunning { .. }));
        assert!(error.to_string().contains(socket.to_str().unwrap()));
    }
}
