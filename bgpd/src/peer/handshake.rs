//! OPENs: what we say of ourselves, whether the peer's is acceptable, and what a session is made of both.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bgp_proto::af::Family;
use bgp_proto::fsm::restart::{Agreed, Returned};
use bgp_proto::wire::attribute::Context;
use bgp_proto::wire::open::{AddPath, Capabilities, GracefulRestart, LongLived, LongLivedFamily, Open};
use bgp_proto::wire::{MAX_EXTENDED_MESSAGE_LEN, MAX_MESSAGE_LEN, Notification, iana};

use super::is_configured;
use bgp_plan::config::PeerConfig;

/// What we say of our own restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restart {
    /// R: this process has yet to hear what its peers announce.
    pub restarting: bool,
    /// F of each family: the kernel kept forwarding over the restart.
    pub preserved: [bool; 2],
}

/// Our OPEN to a peer.
pub fn our_open(config: &PeerConfig, router_id: Ipv4Addr, restart: Restart) -> Open {
    let preserved = |family: Family| is_configured(config, family).then_some(restart.preserved[family as usize]);
    let graceful_restart = config.graceful_restart.map(|restart_time| GracefulRestart {
        restarting: restart.restarting,
        notification: true,
        restart_time,
        ipv4: preserved(Family::Ipv4),
        ipv6: preserved(Family::Ipv6),
    });
    let long_lived = config.long_lived_stale_time.filter(|_| graceful_restart.is_some()).map(|stale_time| {
        let family = |f: Family| preserved(f).map(|preserved| LongLivedFamily { preserved, stale_time });
        LongLived { ipv4: family(Family::Ipv4), ipv6: family(Family::Ipv6) }
    });
    let add_path = |f: Family| match is_configured(config, f) {
        true => AddPath { send: config.add_path_send, receive: config.add_path_receive },
        false => AddPath::default(),
    };
    Open {
        asn: config.local_as,
        hold_time: config.hold_time,
        router_id,
        capabilities: Capabilities {
            ipv4: config.v4,
            ipv6: config.v6,
            route_refresh: true,
            enhanced_route_refresh: true,
            four_octet_as: true,
            extended_messages: config.extended_messages,
            graceful_restart,
            long_lived,
            add_path: [add_path(Family::Ipv4), add_path(Family::Ipv6)],
            extended_next_hop: config.extended_next_hop && config.v4,
            // RFC 9234 section 4.1: between different ASes only.
            role: config.role.filter(|_| config.local_as != config.remote_as).map(|role| role as u8),
            ..Capabilities::default()
        },
    }
}

/// Whether an OPEN is from the peer that is configured, and one to go on with.
///
/// # Errors
/// The NOTIFICATION of RFC 4271 section 6.2, RFC 6286, RFC 5492 or RFC 9234.
pub fn check_open(config: &PeerConfig, ours: &Open, theirs: &Open) -> Result<(), Notification> {
    // A template takes any AS but our own.
    let is_expected = match config.remote_as {
        0 => theirs.asn != config.local_as,
        remote_as => theirs.asn == remote_as,
    };
    if !is_expected {
        return Err(Notification::open(iana::BAD_PEER_AS, &[]));
    }
    // RFC 6286 section 2.2: unique within an AS.
    if theirs.router_id == ours.router_id && theirs.asn == config.local_as {
        return Err(Notification::open(iana::BAD_BGP_IDENTIFIER, &[]));
    }
    let (own, peer) = (&ours.capabilities, &theirs.capabilities);
    if !Family::ALL.into_iter().any(|f| own.family(f) && peer.family(f)) {
        // RFC 5492 section 5: the data is the capabilities that are missing.
        let wanted = Family::ALL.into_iter().filter(|&f| own.family(f));
        let data: Vec<u8> = wanted.flat_map(|f| [iana::CAP_MULTIPROTOCOL, 4, 0, f.afi() as u8, 0, 1]).collect();
        return Err(Notification::open(iana::UNSUPPORTED_CAPABILITY, &data));
    }
    // RFC 9234 section 4.2; in strict mode the peer has to say its role.
    if !own.roles_fit(peer) || (config.role_is_strict && own.role.is_some() && peer.role.is_none()) {
        return Err(Notification::open(iana::ROLE_MISMATCH, &[]));
    }
    Ok(())
}

/// What an established session negotiated.
pub struct Session {
    pub context: Context,
    /// What both sides have.
    pub common: Capabilities,
    /// End-of-RIB came, of each family.
    pub end_of_rib: [bool; 2],
    /// The peer asked to be told everything of a family again. Answered with the next flush, however often it asked.
    pub refresh_wanted: [bool; 2],
    pub since: Instant,
}

impl Session {
    /// `local`: our end of it.
    pub fn new(ours: &Open, theirs: &Open, local: IpAddr) -> Session {
        let common = ours.capabilities.common(&theirs.capabilities);
        Session {
            context: Context::new(&common, ours.asn == theirs.asn, local),
            common,
            end_of_rib: [false; 2],
            refresh_wanted: [false; 2],
            since: Instant::now(),
        }
    }

    /// The longest message that the peer may send.
    pub fn max_message_len(&self) -> usize {
        if self.common.extended_messages { MAX_EXTENDED_MESSAGE_LEN } else { MAX_MESSAGE_LEN }
    }

    /// Whether NOTIFICATIONs keep routes: both sides have the N bit, which ours always has (RFC 8538 section 2).
    pub fn survives_notifications(&self) -> bool {
        self.common.graceful_restart.is_some_and(|gr| gr.notification)
    }

    /// What becomes of a family's routes when this session ends; `None`: they go.
    pub fn agreed(&self, family: Family) -> Option<Agreed> {
        let gr = self.common.graceful_restart.filter(|_| self.common.family(family))?;
        let stale = self.common.long_lived.and_then(|l| l.family(family)).map_or(0, |f| f.stale_time);
        Some(Agreed {
            restart_time: Duration::from_secs(gr.restart_time.into()),
            listed: gr.forwarding(family).is_some(),
            stale_time: Duration::from_secs(stale.into()),
        })
    }

    /// What the peer says of a family that it may have had before; `sweep_time`: for its End-of-RIB.
    pub fn returned(&self, family: Family, sweep_time: Duration) -> Option<Returned> {
        let gr = self.common.graceful_restart.filter(|_| self.common.family(family))?;
        Some(Returned {
            forwarding: gr.forwarding(family) == Some(true),
            long_lived: self.common.long_lived.and_then(|l| l.family(family)).is_some_and(|f| f.preserved),
            wait: sweep_time,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bgp_plan::config::PeerType;

    fn peer(asn: u32, id: [u8; 4], families: [bool; 2]) -> Open {
        let capabilities = Capabilities { ipv4: families[0], ipv6: families[1], ..Capabilities::default() };
        Open { asn, hold_time: 90, router_id: id.into(), capabilities }
    }

    /// RFC 4271 section 6.2, RFC 6286 section 2.2, RFC 5492 section 3.
    #[test]
    fn which_opens_are_acceptable() {
        let config =
            |remote_as| PeerConfig { v6: false, ..PeerConfig::new("peer", PeerType::Global, 65001, remote_as) };
        let rows = [
            ("the peer", 65002, peer(65002, [2; 4], [true, false]), None),
            ("another AS", 65002, peer(65003, [2; 4], [true, false]), Some(iana::BAD_PEER_AS)),
            ("any AS, by a template", 0, peer(65003, [2; 4], [true, false]), None),
            ("our own AS, by a template", 0, peer(65001, [2; 4], [true, false]), Some(iana::BAD_PEER_AS)),
            ("our identifier in another AS", 65002, peer(65002, [1; 4], [true, false]), None),
            ("our identifier in our AS", 65001, peer(65001, [1; 4], [true, false]), Some(iana::BAD_BGP_IDENTIFIER)),
            ("no common family", 65002, peer(65002, [2; 4], [false, true]), Some(iana::UNSUPPORTED_CAPABILITY)),
        ];
        for (name, remote_as, theirs, want) in rows {
            let config = config(remote_as);
            let ours = our_open(&config, [1; 4].into(), Restart::default());
            let found = check_open(&config, &ours, &theirs);
            assert_eq!(found.as_ref().err().map(|n| n.subcode), want, "{name}");
            if want == Some(iana::UNSUPPORTED_CAPABILITY) {
                assert_eq!(found.unwrap_err().data, [1, 4, 0, 1, 0, 1], "the family that is missing");
            }
        }
    }

    #[test]
    fn what_a_session_keeps_is_as_both_said() {
        let mut config = PeerConfig::new("peer", PeerType::Global, 65001, 65002);
        config.long_lived_stale_time = Some(600);
        let mut theirs = peer(65002, [2; 4], [true, true]);
        let gr = GracefulRestart { restart_time: 30, ipv4: Some(true), notification: true, ..Default::default() };
        theirs.capabilities.graceful_restart = Some(gr);
        let long_lived = LongLivedFamily { preserved: true, stale_time: 77 };
        theirs.capabilities.long_lived = Some(LongLived { ipv4: None, ipv6: Some(long_lived) });
        let session = |config: &PeerConfig| {
            let ours = our_open(config, [1; 4].into(), Restart::default());
            Session::new(&ours, &theirs, [10, 0, 0, 1].into())
        };
        let secs = Duration::from_secs;
        let both = session(&config);
        assert!(both.survives_notifications());
        let v4 = Agreed { restart_time: secs(30), listed: true, stale_time: secs(0) };
        assert_eq!(both.agreed(Family::Ipv4), Some(v4));
        let v6 = Agreed { restart_time: secs(30), listed: false, stale_time: secs(77) };
        assert_eq!(both.agreed(Family::Ipv6), Some(v6));
        config.graceful_restart = None;
        let neither = session(&config);
        assert_eq!((neither.survives_notifications(), neither.agreed(Family::Ipv4)), (false, None));
    }
}
