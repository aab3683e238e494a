//! What happens, told to those who want to know it: sessions that come and go, best paths that change.
//!
//! The speaker owns the one [`Bus`]; a subscriber has a bounded queue of its own. Invariants: the speaker never waits for a
//! subscriber, and does nothing for events that nobody hears. A subscriber whose queue is full is dropped: it finds its queue
//! closed after what is in it, and knows by that that it was too slow ([`Event::Lost`]).

use std::net::IpAddr;

use bgp_proto::af::Prefix;
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use tokio::sync::mpsc;

/// Events that a subscriber may be behind.
const QUEUE: usize = 65_536;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Event {
    /// A session is Established.
    PeerUp { time: Timestamp, peer: IpAddr, name: String, remote_as: u32 },
    /// A session that was Established is not any more.
    PeerDown { time: Timestamp, peer: IpAddr, name: String, remote_as: u32, reason: String },
    /// The best paths of a prefix changed; `best` is null where it has none any more.
    BestPath {
        time: Timestamp,
        #[serde(serialize_with = "as_text")]
        prefix: Prefix,
        best: Option<Best>,
    },
    /// The last one a subscriber gets: it read more slowly than things happened.
    Lost { time: Timestamp, reason: &'static str },
}

/// The best path of a prefix.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Best {
    /// Null: a route of this node.
    pub peer: Option<IpAddr>,
    /// Of the whole multipath set.
    pub next_hops: Vec<IpAddr>,
    pub as_path: Vec<u32>,
}

impl Event {
    /// What a subscriber is told last.
    pub fn lost() -> Event {
        Event::Lost { time: Timestamp::now(), reason: "events came faster than they were read; watch again" }
    }
}

/// Which events a subscriber wants.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    /// This peer's session, and the best paths that are its own from now on.
    pub peer: Option<IpAddr>,
    /// Best paths of this prefix and of those inside it; no sessions.
    pub prefix: Option<Prefix>,
}

impl Filter {
    fn takes(&self, event: &Event) -> bool {
        match event {
            Event::PeerUp { peer, .. } | Event::PeerDown { peer, .. } => {
                self.prefix.is_none() && self.peer.is_none_or(|p| p == *peer)
            }
            Event::BestPath { prefix, best, .. } => {
                let of_peer = |p: IpAddr| best.as_ref().is_some_and(|b| b.peer == Some(p));
                self.prefix.is_none_or(|p| p.contains(*prefix)) && self.peer.is_none_or(of_peer)
            }
            Event::Lost { .. } => true,
        }
    }
}

/// One who listens, as the speaker sees it.
#[derive(Debug)]
pub struct Subscriber {
    filter: Filter,
    queue: mpsc::Sender<Event>,
}

/// A subscription: what to hand to the speaker, and where its events come out.
pub fn subscription(filter: Filter) -> (Subscriber, mpsc::Receiver<Event>) {
    let (queue, events) = mpsc::channel(QUEUE);
    (Subscriber { filter, queue }, events)
}

/// All who listen.
#[derive(Debug, Default)]
pub struct Bus {
    subscribers: Vec<Subscriber>,
}

impl Bus {
    pub fn add(&mut self, subscriber: Subscriber) {
        self.subscribers.push(subscriber);
    }

    /// Whether anybody listens: making an event is worth it.
    pub fn is_heard(&mut self) -> bool {
        self.subscribers.retain(|s| !s.queue.is_closed());
        !self.subscribers.is_empty()
    }

    /// Tells everybody who wants to hear it.
    pub fn tell(&mut self, event: &Event) {
        self.subscribers.retain(|s| {
            let told = !s.filter.takes(event) || s.queue.try_send(event.clone()).is_ok();
            if !told && !s.queue.is_closed() {
                tracing::warn!("a watcher is {QUEUE} events behind and is dropped");
            }
            told
        });
    }
}

fn as_text<S: Serializer>(prefix: &Prefix, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (address, len) = text.split_once('/').unwrap();
        Prefix::new(address.parse().unwrap(), len.parse().unwrap()).unwrap()
    }

    fn up(peer: &str) -> Event {
        Event::PeerUp { time: Timestamp::UNIX_EPOCH, peer: peer.parse().unwrap(), name: "a".into(), remote_as: 65001 }
    }

    fn best(text: &str, peer: Option<&str>) -> Event {
        let peer = peer.map(|p| p.parse().unwrap());
        let best = peer.map(|p| Best { peer: Some(p), next_hops: vec![p], as_path: vec![65001] });
        Event::BestPath { time: Timestamp::UNIX_EPOCH, prefix: prefix(text), best }
    }

    #[test]
    fn a_subscriber_hears_what_it_asked_for() {
        let peer = |p: &str| Filter { peer: Some(p.parse().unwrap()), prefix: None };
        let within = |p: &str| Filter { peer: None, prefix: Some(prefix(p)) };
        for (filter, event, heard) in [
            (Filter::default(), up("192.0.2.1"), true),
            (Filter::default(), best("10.0.0.0/8", None), true),
            (peer("192.0.2.1"), up("192.0.2.1"), true),
            (peer("192.0.2.1"), up("192.0.2.2"), false),
            (peer("192.0.2.1"), best("10.0.0.0/8", Some("192.0.2.1")), true),
            (peer("192.0.2.1"), best("10.0.0.0/8", Some("192.0.2.2")), false),
            (within("10.0.0.0/8"), best("10.1.0.0/16", None), true),
            (within("10.0.0.0/8"), best("11.0.0.0/16", None), false),
            (within("10.0.0.0/8"), up("192.0.2.1"), false),
        ] {
            let mut bus = Bus::default();
            let (subscriber, mut events) = subscription(filter);
            bus.add(subscriber);
            bus.tell(&event);
            assert_eq!(events.try_recv().is_ok(), heard, "{filter:?} {event:?}");
        }
    }

    #[test]
    fn a_slow_subscriber_is_dropped_and_finds_its_queue_closed_behind_what_is_in_it() {
        let mut bus = Bus::default();
        let (slow, mut behind) = subscription(Filter::default());
        bus.add(slow);
        (0..=QUEUE).for_each(|_| bus.tell(&up("192.0.2.1")));
        assert!(!bus.is_heard());
        for _ in 0..QUEUE {
            assert!(behind.try_recv().is_ok());
        }
        assert_eq!(behind.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
    }

    #[test]
    fn who_left_is_not_told() {
        let mut bus = Bus::default();
        let (subscriber, events) = subscription(Filter::default());
        bus.add(subscriber);
        assert!(bus.is_heard());
        drop(events);
        assert!(!bus.is_heard());
    }

    #[test]
    fn events_are_json_with_their_name_in_front() {
        let json = serde_json::to_string(&best("10.0.0.0/8", Some("192.0.2.1"))).unwrap();
        assert_eq!(
            json,
            r#"{"event":"bestPath","time":"1970-01-01T00:00:00Z","prefix":"10.0.0.0/8","best":{"peer":"192.0.2.1","nextHops":["192.0.2.1"],"asPath":[65001]}}"#
        );
    }
}
