//! One speaker: a RIB and its sessions, as bgpd's shell drives them.

use std::net::IpAddr;

use bgp_proto::af::{Family, Prefix};
use bgp_proto::rib::{Origin, PeerIndex, PeerInfo, Rib};
use bgp_proto::wire::attribute::Context;
use bgp_proto::wire::open::Capabilities;
use bgp_proto::wire::update::Update;
use bgp_proto::wire::{MAX_MESSAGE_LEN, MessageType, frame};

use crate::topology::{LinkId, Node, Topology, prefix_address};

/// All speakers are of one AS.
const AS: u32 = 64512;
const FAMILY: Family = Family::Ipv4;

/// What a speaker knows of the other end of one of its links.
#[derive(Debug)]
pub struct Session {
    pub link: LinkId,
    pub peer: PeerIndex,
    pub is_up: bool,
    /// Paths from before the last loss are kept until End-of-RIB or the restart time is over.
    pub is_stale: bool,
    /// How often it was lost.
    pub losses: u32,
    context: Context,
    received: Vec<u8>,
}

/// See the module.
pub struct Speaker {
    pub rib: Rib,
    pub sessions: Vec<Session>,
    /// A flush is among the events.
    pub flush_due: bool,
}

/// What a speaker made of some octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Input {
    pub updates: u64,
    /// Nothing that our own codec writes may be malformed to it.
    pub malformed: u64,
    pub end_of_rib: bool,
}

impl Speaker {
    /// One that has just started: no session is up, nothing is originated.
    pub fn new(t: &Topology, node: Node, seed: u64) -> Speaker {
        let own = &t.speakers[node as usize];
        let mut rib = Rib::new(seed);
        let session = |&link: &LinkId| {
            let l = &t.links[link as usize];
            let address = t.speakers[l.other(node) as usize].address;
            let mut info = PeerInfo::new(address.into(), AS, own.address);
            info.router_id = address;
            info.rr_client = l.is_client && l.ends[0] == node;
            info.cluster_id = own.cluster_id;
            info.export.local_address = own.address.into();
            Session {
                link,
                peer: rib.add_peer(info),
                is_up: false,
                is_stale: false,
                losses: 0,
                context: context(own.address.into()),
                received: Vec::new(),
            }
        };
        let sessions = t.links_of[node as usize].iter().map(session).collect();
        Speaker { rib, sessions, flush_due: false }
    }

    pub fn session(&mut self, link: LinkId) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|s| s.link == link)
    }

    /// Replaces what it originates.
    pub fn originate(&mut self, groups: impl Iterator<Item = (std::ops::Range<u32>, Option<u32>)>) {
        let origins = groups.flat_map(|(prefixes, priority)| prefixes.map(move |p| (p, priority)));
        let origins = origins.filter_map(|(p, priority)| {
            Some(Origin {
                prefix: Prefix::new(prefix_address(p).into(), 24)?,
                communities: Vec::new(),
                interface: None,
                priority,
                export: true,
                rule: "",
            })
        });
        self.rib.originate(origins.collect());
    }

    /// The session is up: the peer is told everything.
    pub fn up(&mut self, link: LinkId, keeps_stale: bool) {
        let Some(session) = self.session(link) else { return };
        session.is_up = true;
        session.received.clear();
        let (peer, drop_stale) = (session.peer, session.is_stale && !keeps_stale);
        session.is_stale &= keeps_stale;
        if drop_stale {
            self.rib.remove_paths(peer, FAMILY, true);
        }
        self.rib.start(peer, FAMILY);
    }

    /// The session is lost. If stale paths are kept now: the number of this loss.
    pub fn down(&mut self, link: LinkId, is_graceful: bool) -> Option<u32> {
        let session = self.session(link)?;
        session.is_up = false;
        session.losses += 1;
        session.received.clear();
        session.is_stale = is_graceful;
        let (peer, losses) = (session.peer, session.losses);
        self.rib.stop(peer, FAMILY);
        if is_graceful {
            // What was stale already goes (RFC 4724 section 4.2).
            self.rib.remove_paths(peer, FAMILY, true);
            self.rib.mark_stale(peer, FAMILY);
        } else {
            self.rib.remove_paths(peer, FAMILY, false);
        }
        is_graceful.then_some(losses)
    }

    /// The restart time is over, or the peer has told everything.
    pub fn sweep(&mut self, link: LinkId) {
        if let Some(session) = self.session(link).filter(|s| s.is_stale) {
            session.is_stale = false;
            let peer = session.peer;
            self.rib.remove_paths(peer, FAMILY, true);
        }
    }

    /// Octets of a link; they end anywhere in a message.
    pub fn input(&mut self, link: LinkId, octets: &[u8]) -> Input {
        let mut input = Input::default();
        let Some(session) = self.sessions.iter_mut().find(|s| s.link == link) else { return input };
        session.received.extend_from_slice(octets);
        let received = std::mem::take(&mut session.received);
        let (context, peer) = (session.context, session.peer);
        let mut at = 0;
        loop {
            match frame(&received[at..], MAX_MESSAGE_LEN) {
                Ok(Some(f)) if f.kind == MessageType::Update => {
                    at += f.len;
                    input.updates += 1;
                    match Update::read(&context, f.body) {
                        Ok(update) => {
                            input.malformed += update.errors.len() as u64;
                            input.end_of_rib |= update.end_of_rib.is_some();
                            for (family, list) in update.withdrawn {
                                self.rib.withdraw(peer, family, list);
                            }
                            for (family, list, attributes) in update.announced {
                                self.rib.announce(peer, family, list, attributes);
                            }
                        }
                        Err(_) => input.malformed += 1,
                    }
                }
                Ok(None) => break,
                Ok(Some(_)) | Err(_) => {
                    input.malformed += 1;
                    break;
                }
            }
        }
        if let Some(session) = self.session(link) {
            session.received = received[at..].to_vec();
        }
        if input.end_of_rib {
            self.sweep(link);
        }
        input
    }
}

/// What both ends of every session have agreed on.
fn context(local_address: IpAddr) -> Context {
    let common = Capabilities { ipv4: true, four_octet_as: true, ..Capabilities::default() };
    Context::new(&common, true, local_address)
}
