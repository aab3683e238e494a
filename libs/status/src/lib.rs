//! The status API of the daemons: HTTP and JSON on a unix socket, and the client that the command line and the CNI plugins
//! use. `curl --unix-socket /run/tortie/felix.sock http://felix/v1/status` sees the same.
//!
//! - [`serve`]: an axum router on `<run dir>/<name>.sock`
//! - [`get`], [`get_json`]: one request

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
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
    #[error("{socket}{path}: {reason}")]
    Request { socket: PathBuf, path: String, reason: String },
    #[error("{socket}{path} answered {status}: {body}")]
    Refused { socket: PathBuf, path: String, status: u16, body: String },
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
/// [`Error::NotRunning`] when nothing listens; [`Error::Request`] when the exchange fails or takes over 30 s.
pub async fn get(socket: &Path, path: &str) -> Result<Reply, Error> {
    let stream =
        UnixStream::connect(socket).await.map_err(|source| Error::NotRunning { socket: socket.into(), source })?;
    let failed = |reason: String| Error::Request { socket: socket.into(), path: path.into(), reason };
    let exchange = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let driver = tokio::spawn(connection);
        let request = hyper::Request::get(path)
            .header(hyper::header::HOST, "localhost")
            .body(Empty::<Bytes>::new())
            .map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes().to_vec();
        driver.abort();
        Ok::<_, String>(Reply { status, body })
    };
    tokio::time::timeout(REQUEST_TIMEOUT, exchange)
        .await
        .map_err(|_| failed(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())))?
        .map_err(failed)
}

/// Asks `GET path` and reads the answer as JSON.
///
/// # Errors
/// As [`get`]; [`Error::Refused`] for any status but 200.
pub async fn get_json<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, Error> {
    let reply = get(socket, path).await?;
    if reply.status != 200 {
        let body = String::from_utf8_lossy(&reply.body).trim().to_string();
        return Err(Error::Refused { socket: socket.into(), path: path.into(), status: reply.status, body });
    }
    serde_json::from_slice(&reply.body).map_err(|e| Error::Request {
        socket: socket.into(),
        path: path.into(),
        reason: format!("the answer is not what this version reads: {e}"),
    })
}

#[cfg(test)]
mod tests {
    use axum::{Json, routing};

    use super::*;

    fn router() -> Router {
        Router::new().route("/v1/n", routing::get(|| async { Json(7) }))
    }

    #[tokio::test]
    async fn a_client_reads_what_the_server_says() {
        let dir = tempfile::tempdir().unwrap();
        let server = serve(&dir.path().join("made"), "felix", router()).await.unwrap();
        assert_eq!(get_json::<u32>(server.socket(), "/v1/n").await.unwrap(), 7);
        assert!(matches!(get_json::<u32>(server.socket(), "/nothing").await, Err(Error::Refused { status: 404, .. })));
        let wrong = get_json::<String>(server.socket(), "/v1/n").await.unwrap_err();
        assert!(wrong.to_string().contains("/v1/n"), "{wrong}");
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
