//! What is stored, and what a candidate makes of it. No clock: `now` is an argument.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::store::Revision;

/// The record of an election. Holds no time of day: each candidate measures by its own clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Who leads; empty where nobody does.
    pub holder_identity: String,
    /// For how long the others leave an unchanged record alone.
    pub lease_duration_milliseconds: u64,
    /// How often the lead has changed hands: the number of the present term.
    pub transitions: u64,
    /// How often the present holder has renewed.
    pub renewals: u64,
}

impl Record {
    pub(super) fn new(holder_identity: String, lease: Duration, transitions: u64) -> Self {
        let lease_duration_milliseconds = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        Self { holder_identity, lease_duration_milliseconds, transitions, renewals: 0 }
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(value)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a struct of strings and numbers is JSON")
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_duration_milliseconds)
    }

    /// Whether somebody holds it. Says nothing about whether that one is alive.
    pub fn is_held(&self) -> bool {
        !self.holder_identity.is_empty()
    }
}

/// What a candidate has seen of the record.
#[derive(Default)]
pub(super) struct Sight {
    /// `None`: there is none.
    present: Option<(Record, Revision)>,
    /// Until when the last holder may act.
    held_until: Option<Instant>,
    transitions: u64,
}

impl Sight {
    /// The record is now like this. Only what differs from what was seen is a sign of life.
    pub(super) fn see(&mut self, present: Option<(Record, Revision)>, now: Instant) {
        if self.present == present {
            return;
        }
        match &present {
            Some((record, _)) => {
                self.held_until = record.is_held().then(|| now + record.lease());
                self.transitions = record.transitions;
            }
            // Somebody removed it. Who held it last may not know that yet, and may be one that was never seen here.
            None => {
                let lease = self.present.as_ref().map(|(record, _)| record.lease());
                self.held_until = lease.map(|lease| now + lease).or(self.held_until);
            }
        }
        self.present = present;
    }

    /// From when on the record may be taken; `now` or before where it may be at once.
    pub(super) fn free_at(&self, identity: &str, now: Instant) -> Instant {
        if self.holder() == Some(identity) { now } else { self.held_until.unwrap_or(now) }
    }

    pub(super) fn holder(&self) -> Option<&str> {
        let (record, _) = self.present.as_ref()?;
        record.is_held().then_some(record.holder_identity.as_str())
    }

    pub(super) fn revision(&self) -> Option<Revision> {
        self.present.as_ref().map(|(_, revision)| *revision)
    }

    pub(super) fn transitions(&self) -> u64 {
        self.transitions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    fn record(holder: &str) -> Record {
        Record::new(holder.into(), LEASE, 3)
    }

    #[test]
    fn a_record_is_json_without_a_time_of_day() {
        let text = r#"{"holderIdentity":"a","leaseDurationMilliseconds":15000,"transitions":3,"renewals":0}"#;
        assert_eq!(record("a").encode(), text.as_bytes());
        assert_eq!(Record::decode(text.as_bytes()).unwrap(), record("a"));
    }

    #[test]
    fn when_a_record_may_be_taken() {
        let start = Instant::now();
        let at = |secs: u64| start + Duration::from_secs(secs);
        let held = |holder: &str, revision| Some((record(holder), revision));
        type Row = (&'static str, Vec<(Option<(Record, Revision)>, u64)>, u64);
        // What was seen and when; from when on "me" may take it, asked at 20.
        let rows: Vec<Row> = vec![
            ("nothing was ever there", vec![(None, 0)], 20),
            ("released", vec![(held("a", 1), 10), (held("", 2), 11)], 20),
            ("held: a lease after it was seen", vec![(held("a", 1), 10)], 25),
            ("renewed: a lease after that", vec![(held("a", 1), 10), (held("a", 2), 14)], 29),
            ("seen again unchanged is no sign of life", vec![(held("a", 1), 10), (held("a", 1), 19)], 25),
            ("removed without a release: its holder may not know", vec![(held("a", 1), 10), (None, 12)], 27),
            ("removed: one that was never seen may have held it", vec![(held("", 2), 11), (None, 12)], 27),
            ("another took it", vec![(held("a", 1), 5), (held("b", 2), 12)], 27),
            ("a store that went back in time", vec![(held("a", 9), 5), (held("a", 2), 12)], 27),
            ("mine", vec![(held("me", 1), 19)], 20),
        ];
        for (what, seen, free_at) in rows {
            let mut sight = Sight::default();
            for (present, secs) in seen {
                sight.see(present, at(secs));
            }
            assert_eq!(sight.free_at("me", at(20)).max(at(20)), at(free_at), "{what}");
        }
    }
}
