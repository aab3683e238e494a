//! One collector: connects, greets, dumps the table, and writes what comes.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use bgp_proto::bmp::{self, Termination};
use bgp_proto::rib::{Cursor, RouteFilter, View};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::MAX_BEHIND;
use crate::speaker::Speaker;

/// The wait after a failure, doubling up to the last one. RFC 7854 section 3.2 suggests 30 s to 720 s; a collector that is
/// back is to see our side soon.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// How long an attempt may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Between two reports.
const STATISTICS: Duration = Duration::from_secs(60);
/// The dump goes on while less than this waits for the socket.
const DUMP_AHEAD: usize = 256 * 1024;
/// Entries of the table that one slice of the dump looks at.
const SLICE: u32 = 1024;

/// Octets on their way to a collector.
#[derive(Default)]
pub(super) struct Queue {
    stream: Option<Rc<TcpStream>>,
    /// What the socket has yet to take, from `sent` on.
    octets: Vec<u8>,
    sent: usize,
    is_behind: bool,
    wake: Rc<Notify>,
}

impl Queue {
    pub(super) fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    /// Appends, or gives up a collector that is too far behind.
    pub(super) fn push(&mut self, octets: &[u8]) {
        if self.stream.is_none() || self.is_behind {
            return;
        }
        if self.waiting() + octets.len() > MAX_BEHIND {
            self.is_behind = true;
        } else {
            self.octets.extend_from_slice(octets);
        }
        self.wake.notify_one();
    }

    /// Says goodbye, as far as the socket takes it.
    pub(super) fn close(&mut self, reason: Termination) {
        bmp::write_termination(&mut self.octets, reason);
        let _ = self.flush();
        *self = Queue::default();
    }

    fn waiting(&self) -> usize {
        self.octets.len() - self.sent
    }

    /// Hands the socket what it takes.
    fn flush(&mut self) -> io::Result<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        while self.sent < self.octets.len() {
            match stream.try_write(&self.octets[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        if self.sent == self.octets.len() || self.sent >= DUMP_AHEAD {
            self.octets.drain(..self.sent);
            self.sent = 0;
            self.octets.shrink_to(DUMP_AHEAD);
        }
        Ok(())
    }
}

/// Until it is aborted.
pub(super) async fn run(address: SocketAddr, queue: Rc<RefCell<Queue>>, speaker: Weak<RefCell<Speaker>>) {
    let mut wait = RETRY[0];
    loop {
        let begin = Instant::now();
        let error = match connect(address).await {
            Ok(stream) => {
                tracing::info!("BMP collector {address}: connected");
                match serve(Rc::new(stream), &queue, &speaker).await {
                    Ok(()) => return,
                    Err(e) => e,
                }
            }
            Err(e) => e,
        };
        let reason = if queue.borrow().is_behind { Termination::OutOfResources } else { Termination::Administrative };
        queue.borrow_mut().close(reason);
        if begin.elapsed() > RETRY[1] {
            wait = RETRY[0];
        }
        tracing::warn!("BMP collector {address}: {error}; next attempt in {} s", wait.as_secs());
        sleep(wait).await;
        wait = (wait * 2).min(RETRY[1]);
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    timeout(CONNECT, TcpStream::connect(address)).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

/// Ends without an error only where the speaker is gone.
async fn serve(stream: Rc<TcpStream>, queue: &Rc<RefCell<Queue>>, speaker: &Weak<RefCell<Speaker>>) -> io::Result<()> {
    let wake = queue.borrow().wake.clone();
    queue.borrow_mut().stream = Some(stream.clone());
    let Some(this) = speaker.upgrade() else { return Ok(()) };
    let mut out = Vec::new();
    this.borrow().bmp.greet(&mut out);
    queue.borrow_mut().push(&out);
    drop(this);
    let mut dump = Some(Cursor::START);
    let mut statistics = interval(STATISTICS);
    statistics.set_missed_tick_behavior(MissedTickBehavior::Delay);
    statistics.tick().await;
    loop {
        queue.borrow_mut().flush()?;
        let (waiting, is_behind) = (queue.borrow().waiting(), queue.borrow().is_behind);
        if is_behind {
            return Err(io::Error::other(format!("more than {MAX_BEHIND} octets behind")));
        }
        if let Some(from) = dump.filter(|_| waiting < DUMP_AHEAD) {
            let Some(this) = speaker.upgrade() else { return Ok(()) };
            dump = slice(&this.borrow(), from, queue);
            // Others have their turn between two slices.
            tokio::task::yield_now().await;
            continue;
        }
        tokio::select! {
            ready = stream.writable(), if waiting > 0 => ready?,
            ended = closed(&stream) => return Err(ended),
            () = wake.notified() => {}
            _ = statistics.tick() => {
                let Some(this) = speaker.upgrade() else { return Ok(()) };
                let this = this.borrow();
                let mut out = Vec::new();
                this.bmp.write_statistics(&mut out, |id, family| this.received(id, family).into());
                queue.borrow_mut().push(&out);
            }
        }
    }
}

/// The next part of the table; where to go on.
fn slice(speaker: &Speaker, from: Cursor, queue: &Rc<RefCell<Queue>>) -> Option<Cursor> {
    let (routes, next) = speaker.rib.routes(View::Received(None), &RouteFilter::default(), from, SLICE);
    let mut out = Vec::new();
    speaker.bmp.write_routes(&mut out, routes);
    if next.is_none() {
        speaker.bmp.write_ends_of_rib(&mut out);
    }
    queue.borrow_mut().push(&out);
    next
}

/// Why the connection is over. What a collector says means nothing (RFC 7854 section 3.2).
async fn closed(stream: &TcpStream) -> io::Error {
    let mut sink = [0; 1024];
    loop {
        if let Err(e) = stream.readable().await {
            return e;
        }
        match stream.try_read(&mut sink) {
            Ok(0) => return io::Error::other("the collector closed the connection"),
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return e,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_collector_that_does_not_read_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (_silent, _) = listener.accept().await.unwrap();
        let mut queue = Queue { stream: Some(Rc::new(stream)), ..Queue::default() };
        let chunk = vec![0; 1024 * 1024];
        for _ in 0..2 * MAX_BEHIND / chunk.len() {
            queue.push(&chunk);
            queue.flush().unwrap();
        }
        assert!(queue.is_behind && queue.waiting() <= MAX_BEHIND);
        queue.close(Termination::OutOfResources);
        assert!(!queue.is_connected());
        queue.push(&chunk);
        assert_eq!(queue.waiting(), 0, "nobody is connected");
    }
}
