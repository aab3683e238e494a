//! BMP out (RFC 7854): what peers announce, before policy, for the network team's collectors.
//!
//! ```text
//! speaker ──up, update, down──► Stations ──octets──► queue of each collector ◄── task of each collector: connects, greets,
//!                                                                                dumps the table, writes to the socket
//! ```
//!
//! All on the speaker's thread. Invariants: a collector that is not there, or slow, delays nobody and costs at most
//! [`MAX_BEHIND`] octets; then the connection ends and begins anew with the whole table. Where nobody is connected an UPDATE
//! costs one look at an empty list. What a dump says of a prefix is what holds when it is said, so that it may be mixed with
//! what happens meanwhile.
//!
//! A task ends when it is aborted, because its collector is not configured any more; the last octets are for its socket to take.

mod collector;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::time::{Duration, SystemTime};

use bgp_plan::config::PeerId;
use bgp_proto::af::{Family, Key, V4, V6};
use bgp_proto::bmp::{self, Down, Termination};
use bgp_proto::fsm::restart::Cause;
use bgp_proto::rib::{PeerIndex, RouteInfo};
use bgp_proto::wire::attribute::{self, Attributes};
use bgp_proto::wire::nlri::paths;
use bgp_proto::wire::open::{Capabilities, Open};
use bgp_proto::wire::pack::{Layout, MpNextHop};
use bgp_proto::wire::update::{Update, write_end_of_rib};
use bgp_proto::wire::{HEADER_LEN, MAX_EXTENDED_MESSAGE_LEN, MessageType, Notification, frame, iana, write_message};
use tokio::task::{JoinHandle, spawn_local};

use self::collector::Queue;
use crate::speaker::Speaker;

/// Octets that a collector may be behind.
const MAX_BEHIND: usize = 64 * 1024 * 1024;

/// A session as collectors know it.
struct Monitored {
    peer: bmp::Peer,
    index: PeerIndex,
    since: Duration,
    local: SocketAddr,
    remote: SocketAddr,
    /// Whole messages, as sent and as received.
    opens: [Vec<u8>; 2],
    add_path: [bool; 2],
    families: [bool; 2],
    /// The NOTIFICATION that is about to end it.
    last: Option<Notification>,
}

/// All collectors, and what there is to tell them.
#[derive(Default)]
pub struct Stations {
    collectors: BTreeMap<SocketAddr, (Rc<RefCell<Queue>>, JoinHandle<()>)>,
    sessions: BTreeMap<PeerId, Monitored>,
    scratch: Vec<u8>,
}

impl Stations {
    /// Begins with collectors that are new, and ends with those that are gone.
    pub fn configure(&mut self, collectors: &[SocketAddr], speaker: &Weak<RefCell<Speaker>>) {
        let gone: Vec<SocketAddr> = self.collectors.keys().filter(|a| !collectors.contains(a)).copied().collect();
        for address in gone {
            if let Some(collector) = self.collectors.remove(&address) {
                end(collector);
            }
        }
        for &address in collectors {
            self.collectors.entry(address).or_insert_with(|| {
                let queue = Rc::new(RefCell::new(Queue::default()));
                let task = spawn_local(collector::run(address, queue.clone(), speaker.clone()));
                (queue, task)
            });
        }
    }

    /// Says goodbye to all.
    pub fn shut_down(&mut self) {
        std::mem::take(&mut self.collectors).into_values().for_each(end);
    }

    /// A session is Established. `received`: the body of the peer's OPEN.
    pub fn up(
        &mut self,
        (id, index): (PeerId, PeerIndex),
        ends: [Option<SocketAddr>; 2],
        sent: &Open,
        received: &[u8],
        common: &Capabilities,
    ) {
        let Ok(open) = Open::read(received) else { return };
        let nowhere = SocketAddr::new(id.address, 0);
        let mut opens = [Vec::new(), Vec::new()];
        sent.write(&mut opens[0]);
        write_message(&mut opens[1], MessageType::Open, |out| out.extend_from_slice(received));
        let session = Monitored {
            peer: bmp::Peer { address: id.address, asn: open.asn, router_id: open.router_id, two_octet_as: false },
            index,
            since: now(),
            local: ends[0].unwrap_or(nowhere),
            remote: ends[1].unwrap_or(nowhere),
            opens,
            add_path: common.add_path.map(|a| a.receive),
            families: Family::ALL.map(|f| common.family(f)),
            last: None,
        };
        self.send(|out| session.write_up(out));
        self.sessions.insert(id, session);
    }

    /// A NOTIFICATION was sent or received: it is the reason if the session ends now.
    pub fn notification(&mut self, id: PeerId, notification: &Notification) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.last = Some(notification.clone());
        }
    }

    /// A session is over.
    pub fn down(&mut self, id: PeerId, cause: Cause) {
        let Some(session) = self.sessions.remove(&id) else { return };
        let mut pdu = Vec::new();
        session.last.iter().for_each(|n| n.write(&mut pdu));
        let reason = match cause {
            Cause::Sent(..) if !pdu.is_empty() => Down::LocalNotification(&pdu),
            Cause::Received(..) if !pdu.is_empty() => Down::RemoteNotification(&pdu),
            // RFC 4271 section 8.1 has no event for a way that is gone.
            Cause::PathLost | Cause::Sent(..) => Down::Local(0),
            Cause::ConnectionLost | Cause::Received(..) => Down::Remote,
        };
        self.send(|out| bmp::write_peer_down(out, &session.peer, now(), reason));
    }

    /// Whether anybody is connected.
    pub fn is_heard(&self) -> bool {
        self.collectors.values().any(|(queue, _)| queue.borrow().is_connected())
    }

    /// An UPDATE came in. It goes on as it is, or as what RFC 7606 made of it.
    pub fn update(&mut self, id: PeerId, four_octet_as: bool, update: &Update<'_>, body: &[u8]) {
        if !self.is_heard() {
            return;
        }
        let Some(session) = self.sessions.remove(&id) else { return };
        if update.errors.is_empty() {
            let mut pdu = Vec::with_capacity(HEADER_LEN + body.len());
            write_message(&mut pdu, MessageType::Update, |out| out.extend_from_slice(body));
            let peer = bmp::Peer { two_octet_as: !four_octet_as, ..session.peer };
            self.send(|out| bmp::write_route_monitoring(out, &peer, now(), &pdu));
        } else {
            self.send(|out| {
                update.withdrawn.iter().for_each(|(family, list)| session.write_withdrawn(out, *family, list));
                update.announced.iter().for_each(|(family, list, a)| session.write_announced(out, *family, list, a));
            });
        }
        self.sessions.insert(id, session);
    }

    /// Gives what `write` appends to everybody who is connected.
    fn send(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.is_heard() {
            return;
        }
        self.scratch.clear();
        write(&mut self.scratch);
        self.collectors.values().for_each(|(queue, _)| queue.borrow_mut().push(&self.scratch));
    }

    /// The first words to a collector: who we are, and every session.
    fn greet(&self, out: &mut Vec<u8>) {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        bmp::write_initiation(out, concat!("Tortie bgpd ", env!("CARGO_PKG_VERSION")), name.trim());
        self.sessions.values().for_each(|session| session.write_up(out));
    }

    /// A slice of a dump.
    fn write_routes(&self, out: &mut Vec<u8>, mut routes: Vec<RouteInfo>) {
        // Paths of one UPDATE mostly come one after another: what has the same attributes shares a message.
        routes.sort_by_key(|r| r.peer_index);
        let sessions: BTreeMap<PeerIndex, &Monitored> = self.sessions.values().map(|s| (s.index, s)).collect();
        for run in routes.chunk_by(|a, b| {
            (a.peer_index, &a.attributes) == (b.peer_index, &b.attributes) && a.prefix.family() == b.prefix.family()
        }) {
            let first = &run[0];
            let Some(session) = sessions.get(&first.peer_index) else { continue };
            match first.prefix.family() {
                Family::Ipv4 => session.write_reach::<V4>(out, keys(run), &first.attributes),
                Family::Ipv6 => session.write_reach::<V6>(out, keys(run), &first.attributes),
            }
        }
    }

    /// What follows a dump (RFC 7854 section 5): every table is complete.
    fn write_ends_of_rib(&self, out: &mut Vec<u8>) {
        for session in self.sessions.values() {
            for family in Family::ALL.into_iter().filter(|&f| session.families[f as usize]) {
                let mut pdu = Vec::new();
                write_end_of_rib(&mut pdu, family);
                bmp::write_route_monitoring(out, &session.peer, now(), &pdu);
            }
        }
    }

    /// A report on every session; `count`: prefixes that a peer announced.
    fn write_statistics(&self, out: &mut Vec<u8>, count: impl Fn(PeerId, Family) -> u64) {
        for (id, session) in &self.sessions {
            let negotiated = Family::ALL.into_iter().filter(|&f| session.families[f as usize]);
            let routes: Vec<(Family, u64)> = negotiated.map(|f| (f, count(*id, f))).collect();
            bmp::write_statistics(out, &session.peer, now(), &routes);
        }
    }
}

impl Monitored {
    fn write_up(&self, out: &mut Vec<u8>) {
        let [sent, received] = &self.opens;
        let local = (self.local.ip().to_canonical(), self.local.port());
        bmp::write_peer_up(out, &self.peer, self.since, local, self.remote.port(), [sent, received]);
    }

    fn layout(&self, family: Family) -> Layout {
        Layout { max_len: MAX_EXTENDED_MESSAGE_LEN, add_path: self.add_path[family as usize] }
    }

    /// `list`: in wire form.
    fn write_announced(&self, out: &mut Vec<u8>, family: Family, list: &[u8], attributes: &Attributes) {
        let add_path = self.add_path[family as usize];
        match family {
            Family::Ipv4 => self.write_reach::<V4>(out, paths(list, add_path), attributes),
            Family::Ipv6 => self.write_reach::<V6>(out, paths(list, add_path), attributes),
        }
    }

    fn write_withdrawn(&self, out: &mut Vec<u8>, family: Family, list: &[u8]) {
        let (layout, add_path) = (self.layout(family), self.add_path[family as usize]);
        let mut updates = Vec::new();
        match family {
            Family::Ipv4 => layout.write_unreach::<V4>(&mut updates, paths(list, add_path)),
            Family::Ipv6 => layout.write_unreach::<V6>(&mut updates, paths(list, add_path)),
        }
        self.wrap(out, &updates);
    }

    fn write_reach<K: Key>(&self, out: &mut Vec<u8>, keys: impl Iterator<Item = (u32, K)>, attributes: &Attributes) {
        let mut list = Vec::new();
        let mut mp = None;
        attributes.write(&mut list, |out| match (K::FAMILY, attributes.next_hop) {
            (Family::Ipv4, IpAddr::V4(a)) => attribute::write(out, iana::TRANSITIVE, iana::NEXT_HOP, &a.octets()),
            (_, address) => mp = Some(MpNextHop { address, link_local: attributes.link_local }),
        });
        let layout = self.layout(K::FAMILY);
        // Attributes that came in a message leave room for a prefix in one of the longest.
        if layout.fits(list.len(), mp.as_ref()) {
            let mut updates = Vec::new();
            layout.write_reach(&mut updates, &list, mp.as_ref(), keys);
            self.wrap(out, &updates);
        }
    }

    /// Appends each of some UPDATEs in a message of its own.
    fn wrap(&self, out: &mut Vec<u8>, mut updates: &[u8]) {
        while let Ok(Some(message)) = frame(updates, MAX_EXTENDED_MESSAGE_LEN) {
            let (pdu, rest) = updates.split_at(message.len);
            bmp::write_route_monitoring(out, &self.peer, now(), pdu);
            updates = rest;
        }
    }
}

fn keys<K: Key>(routes: &[RouteInfo]) -> impl Iterator<Item = (u32, K)> {
    routes.iter().filter_map(|r| K::from_prefix(r.prefix).map(|key| (r.path_id, key)))
}

/// The socket gets what it takes at once; nobody waits for the rest.
fn end((queue, task): (Rc<RefCell<Queue>>, JoinHandle<()>)) {
    task.abort();
    queue.borrow_mut().close(Termination::Administrative);
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
