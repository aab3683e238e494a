//! The peer that a request names: by its address (on a link `fe80::1%eth0`), by its name, or by the interface it is behind.

use std::net::IpAddr;

use super::error::Refusal;
use crate::peer::{PeerDetail, PeerStatus, Place};
use crate::speaker::{Handle, PeersAt};

/// Who is meant. An address may be nobody's.
pub async fn whom(speaker: &Handle, text: &str) -> Result<PeersAt, Refusal> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.into()),
        Err(_) => named(text, &speaker.peers().await),
    }
}

/// Unnumbered peers of this name, or behind this interface, that were not heard yet: they have no address.
pub async fn waiting(speaker: &Handle, text: &str) -> Vec<PeerDetail> {
    let is_it = |p: &PeerDetail| {
        let status = &p.status;
        matches!(&status.address, Place::Interface(link) if *link == text || status.name == text)
    };
    speaker.details().await.into_iter().filter(is_it).collect()
}

fn named(text: &str, peers: &[PeerStatus]) -> Result<PeersAt, Refusal> {
    let zone = text.split_once('%').and_then(|(address, link)| Some((address.parse::<IpAddr>().ok()?, link)));
    let is_meant = |p: &&PeerStatus| match zone {
        Some((address, link)) => p.address == address && p.interface.as_deref() == Some(link),
        None => p.name == text || p.interface.as_deref() == Some(text),
    };
    let at = |p: &PeerStatus| match p.address {
        Place::Address(address) => Some(PeersAt { address, scope: Some(p.scope) }),
        Place::Interface(_) => None,
    };
    let silent = |p: &PeerStatus| match &p.address {
        Place::Interface(link) => Some(link.clone()),
        Place::Address(_) => None,
    };
    let meant = || peers.iter().filter(is_meant);
    match (meant().find_map(at), meant().find_map(silent)) {
        (Some(at), _) => Ok(at),
        (None, Some(link)) => Err(Refusal::not_heard(&link)),
        (None, None) => Err(Refusal::no_peer_of_name(text, peers)),
    }
}
