//! What a changed configuration does to a running session.
//!
//! As little as can be: what is said in the OPEN and cannot be wrong until the next one waits for it (timers, restart times:
//! FRR does so for its timers; BIRD restarts the session), policies are applied again, and only what the session is made of
//! ends it.

use super::PeerConfig;

/// What follows from a change. All false: it counts at once, or from the next session on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The session cannot go on: NOTIFICATION 6/6.
    pub reset: bool,
    /// What the peer announced is looked at again.
    pub refresh_in: bool,
    /// What the peer was told is looked at again.
    pub refresh_out: bool,
    /// What everybody was told is looked at again: who hears the peer's routes changed.
    pub refresh_all: bool,
}

impl PeerConfig {
    /// From this configuration to `new`.
    pub fn changes(&self, new: &PeerConfig) -> Changes {
        // Who the two ends are, and what UPDATEs look like between them.
        let session = |c: &PeerConfig| {
            (
                (c.remote_as, c.local_as, c.source, c.interface.clone()),
                (c.v4, c.v6, c.add_path_receive, c.add_path_send, c.extended_next_hop, c.role),
                // TCP-MD5 cannot come or go on a connection; another password can.
                c.password.is_some(),
            )
        };
        Changes {
            reset: session(self) != session(new) || (new.role_is_strict && !self.role_is_strict && new.role.is_some()),
            refresh_in: (&self.import, self.allow_own_as, self.cluster_id, self.requires_policy, self.rejects_as_sets)
                != (&new.import, new.allow_own_as, new.cluster_id, new.requires_policy, new.rejects_as_sets),
            refresh_out: (&self.export, self.next_hop_mode, self.requires_policy, self.graceful_shutdown)
                != (&new.export, new.next_hop_mode, new.requires_policy, new.graceful_shutdown),
            refresh_all: (self.rr_client, self.cluster_id) != (new.rr_client, new.cluster_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Bfd, MaxPrefixes, NextHopMode, PeerType, Role};

    type Row = (&'static str, fn(&mut PeerConfig), &'static str);

    /// Every field of a peer: what is done to it, and what that means for an established session.
    const FIELDS: &[Row] = &[
        ("name", |c| c.name = "other".into(), "live"),
        ("peer_type", |c| c.peer_type = PeerType::Mesh, "live"),
        ("remote_as", |c| c.remote_as = 65009, "reset"),
        ("local_as", |c| c.local_as = 65009, "reset"),
        ("source", |c| c.source = Some([10, 0, 0, 9].into()), "reset"),
        ("passive", |c| c.passive = true, "live"),
        ("hold_time", |c| c.hold_time = 9, "live"),
        ("keepalive", |c| c.keepalive = Some(3), "live"),
        ("connect_retry", |c| c.connect_retry = Duration::from_secs(1), "live"),
        ("graceful_restart", |c| c.graceful_restart = None, "live"),
        ("rr_client", |c| c.rr_client = true, "all"),
        ("cluster_id", |c| c.cluster_id = Some([1, 1, 1, 1].into()), "in all"),
        ("next_hop_mode", |c| c.next_hop_mode = NextHopMode::Keep, "out"),
        ("ttl_security", |c| c.ttl_security = Some(1), "live"),
        ("allow_own_as", |c| c.allow_own_as = 1, "in"),
        ("password", |c| c.password = Some("one".into()), "reset"),
        ("needs_password", |c| c.needs_password = true, "live"),
        ("down_reason", |c| c.down_reason = Some("no secret".into()), "live"),
        ("import", |c| c.import.rules.push(Default::default()), "in"),
        ("export", |c| c.export.rules.push(Default::default()), "out"),
        ("v4", |c| c.v4 = !c.v4, "reset"),
        ("v6", |c| c.v6 = !c.v6, "reset"),
        ("send_hold_time", |c| c.send_hold_time = 9, "live"),
        ("delay_open", |c| c.delay_open = Duration::from_secs(1), "live"),
        ("long_lived_stale_time", |c| c.long_lived_stale_time = Some(60), "live"),
        ("add_path_receive", |c| c.add_path_receive = true, "reset"),
        ("add_path_send", |c| c.add_path_send = true, "reset"),
        ("extended_messages", |c| c.extended_messages = false, "live"),
        ("extended_next_hop", |c| c.extended_next_hop = true, "reset"),
        ("role", |c| c.role = Some(Role::Provider), "reset"),
        ("role_is_strict", |c| c.role_is_strict = true, "live"),
        ("max_prefixes", |c| c.max_prefixes = Some(LIMIT), "live"),
        ("bfd", |c| c.bfd = Some(BFD), "live"),
        ("shutdown", |c| c.shutdown = Some("maintenance".into()), "live"),
        ("graceful_shutdown", |c| c.graceful_shutdown = true, "out"),
        ("requires_policy", |c| c.requires_policy = true, "in out"),
        ("rejects_as_sets", |c| c.rejects_as_sets = true, "in"),
        ("interface", |c| c.interface = Some("eth0".into()), "reset"),
    ];
    const LIMIT: MaxPrefixes = MaxPrefixes { limit: 9, warn_at: 80, ends_session: true, restart_after: None };
    const BFD: Bfd = Bfd {
        min_rx: Duration::from_millis(100),
        min_tx: Duration::from_millis(100),
        multiplier: 3,
        is_multihop: false,
    };

    fn words(c: Changes) -> String {
        let all = [(c.reset, "reset"), (c.refresh_in, "in"), (c.refresh_out, "out"), (c.refresh_all, "all")];
        let words: Vec<&str> = all.into_iter().filter(|w| w.0).map(|w| w.1).collect();
        if words.is_empty() { "live".into() } else { words.join(" ") }
    }

    #[test]
    fn only_what_a_session_is_made_of_ends_it() {
        let old = PeerConfig::new("peer", PeerType::Global, 65001, 65002);
        for (field, change, want) in FIELDS {
            let mut new = old.clone();
            change(&mut new);
            assert_ne!(old, new, "{field} differs");
            assert_eq!(words(old.changes(&new)), *want, "{field}");
            assert_eq!(words(new.changes(&old)), *want, "{field}, and back");
        }
        assert_eq!(old.changes(&old), Changes::default());
    }

    #[test]
    fn no_field_is_forgotten() {
        let json = serde_json::to_value(PeerConfig::new("peer", PeerType::Global, 65001, 65002)).unwrap();
        let mut fields: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut rows: Vec<&str> = FIELDS.iter().map(|row| row.0).collect();
        fields.sort_unstable();
        rows.sort_unstable();
        assert_eq!(fields, rows);
    }

    #[test]
    fn another_password_is_live_and_strict_mode_is_not_with_a_role() {
        let mut old = PeerConfig::new("peer", PeerType::Global, 65001, 65002);
        (old.password, old.role) = (Some("one".into()), Some(Role::Customer));
        let mut new = old.clone();
        new.password = Some("two".into());
        assert_eq!(words(old.changes(&new)), "live");
        new.role_is_strict = true;
        assert_eq!(words(old.changes(&new)), "reset");
        assert_eq!(words(new.changes(&old)), "live", "and back");
    }
}
