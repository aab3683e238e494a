//! The output half of a connection: octets for the socket, and the task that waits until it takes more.

use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bgp_proto::wire::MAX_MESSAGE_LEN;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};

use crate::session::{self, Serial};
use crate::speaker::{Shared, Speaker};

/// More room than this is given back once the socket has taken everything.
const KEPT_CAPACITY: usize = 4096;
/// How long a NOTIFICATION may take to reach the peer before the socket goes.
const LINGER: Duration = Duration::from_secs(1);

/// The transport of a connection.
pub struct Link {
    pub serial: Serial,
    pub stream: Rc<TcpStream>,
    /// Octets that the socket has yet to take, from `sent` on.
    pub out: Vec<u8>,
    pub sent: usize,
    /// Since when the socket has taken nothing of it; `None`: it takes.
    pub blocked_since: Option<Instant>,
    want_write: Rc<Notify>,
    tasks: [JoinHandle<()>; 2],
}

impl Link {
    /// Starts the tasks of a connection.
    pub fn start(serial: Serial, stream: TcpStream, speaker: &Shared) -> Link {
        let stream = Rc::new(stream);
        let want_write = Rc::new(Notify::new());
        let tasks = [
            spawn_local(session::read(serial, stream.clone(), speaker.clone())),
            spawn_local(write(serial, stream.clone(), want_write.clone(), speaker.clone())),
        ];
        Link { serial, stream, out: Vec::new(), sent: 0, blocked_since: None, want_write, tasks }
    }

    /// Hands the socket what it has yet to take. False: it is full, and the writer will come back.
    ///
    /// # Errors
    /// The connection is gone; the reader will find out too.
    pub fn flush(&mut self) -> io::Result<bool> {
        let out = std::mem::take(&mut self.out);
        let taken = self.write(&out[self.sent..]);
        self.out = out;
        self.sent += taken?;
        if self.sent < self.out.len() {
            return Ok(false);
        }
        self.sent = 0;
        self.out.clear();
        if self.out.capacity() > KEPT_CAPACITY {
            self.out = Vec::new();
        }
        Ok(true)
    }

    /// Hands the socket octets that come after all that [`Link::flush`] has; keeps what it does not take. False: it is full.
    ///
    /// # Errors
    /// As for [`Link::flush`].
    pub fn send(&mut self, octets: &[u8]) -> io::Result<bool> {
        let taken = if self.out.is_empty() { self.write(octets)? } else { 0 };
        self.out.extend_from_slice(&octets[taken..]);
        Ok(taken == octets.len())
    }

    /// How much of it the socket takes.
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        while taken < octets.len() {
            match self.send_now(&octets[taken..]) {
                Ok(n) => {
                    taken += n;
                    self.blocked_since = None;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.blocked_since.get_or_insert_with(Instant::now);
                    self.want_write.notify_one();
                    break;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(taken)
    }

    /// The socket is asked first: mostly it takes everything, and the runtime need only know of the answer that is waited for.
    fn send_now(&self, octets: &[u8]) -> io::Result<usize> {
        let socket = SockRef::from(&*self.stream);
        match socket.send(octets) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                self.stream.try_io(Interest::WRITABLE, || socket.send(octets))
            }
            answer => answer,
        }
    }

    /// Ends the connection; what was written last still reaches the peer.
    pub fn close(mut self) {
        let _ = self.flush();
        self.tasks.iter().for_each(JoinHandle::abort);
        let stream = self.stream;
        let _ = SockRef::from(&*stream).shutdown(std::net::Shutdown::Write);
        // Closing with unread octets would send a reset that overtakes a NOTIFICATION.
        spawn_local(async move {
            let rest = async {
                let mut sink = [0; MAX_MESSAGE_LEN];
                while stream.readable().await.is_ok() {
                    match stream.try_read(&mut sink) {
                        Ok(1..) => {}
                        Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                        _ => break,
                    }
                }
            };
            let _ = tokio::time::timeout(LINGER, rest).await;
        });
    }
}

async fn write(serial: Serial, stream: Rc<TcpStream>, want_write: Rc<Notify>, speaker: Shared) {
    loop {
        want_write.notified().await;
        if stream.writable().await.is_err() {
            return;
        }
        Speaker::drain(&speaker, serial);
    }
}
