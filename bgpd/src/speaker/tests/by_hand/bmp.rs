//! What a BMP collector hears (RFC 7854).

use bgp_proto::bmp::{HEADER_LEN as BMP_HEADER_LEN, PEER_HEADER_LEN};
use bgp_proto::wire::iana::COMMUNITIES;

use super::*;

// Message types (RFC 7854 section 4.1).
const ROUTE_MONITORING: u8 = 0;
const PEER_DOWN: u8 = 2;
const PEER_UP: u8 = 3;
const INITIATION: u8 = 4;
const TERMINATION: u8 = 5;

/// A collector: a listener, then the one connection it has.
struct Collector {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Collector {
    async fn accept(listener: &TcpListener) -> Collector {
        let accepted = tokio::time::timeout(SOON, listener.accept()).await.expect("the speaker connects");
        Collector { stream: accepted.unwrap().0, received: Vec::new() }
    }

    /// The next message: its type and what follows the common header.
    async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(header) = self.received.first_chunk::<BMP_HEADER_LEN>() {
                assert_eq!(header[0], 3, "the version");
                let len = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
                if self.received.len() >= len {
                    let message: Vec<u8> = self.received.drain(..len).collect();
                    return Some((message[5], message[BMP_HEADER_LEN..].to_vec()));
                }
            }
            let read = tokio::time::timeout(SOON, self.stream.read_buf(&mut self.received)).await;
            if read.expect("the speaker has something to say").unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// The body of the next message of a peer, which is of this type.
    async fn expect(&mut self, kind: u8, peer: IpAddr) -> Vec<u8> {
        let (found, body) = self.next().await.expect("the connection stays");
        assert_eq!(found, kind, "{body:?}");
        let IpAddr::V4(address) = peer else { panic!("tests use IPv4") };
        assert_eq!(body[22..26], address.octets(), "the peer's address");
        body[PEER_HEADER_LEN..].to_vec()
    }

    /// The NLRI that the next Route Monitoring announces, and whether they are withdrawals.
    async fn routes(&mut self, peer: IpAddr) -> (Vec<u8>, Vec<u8>) {
        let pdu = self.expect(ROUTE_MONITORING, peer).await;
        let body = frame(&pdu, wire::MAX_EXTENDED_MESSAGE_LEN).unwrap().unwrap().body.to_vec();
        let len = |at: usize| usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
        let withdrawn = len(0);
        let nlri = 4 + withdrawn + len(2 + withdrawn);
        (body[2..2 + withdrawn].to_vec(), body[nlri..].to_vec())
    }
}

/// A listener for a collector, and a configuration with it.
async fn with_collector(at: [IpAddr; 2]) -> (TcpListener, SpeakerConfig) {
    let listener = TcpListener::bind(SocketAddr::new(at[1], 0)).await.unwrap();
    let bmp = vec![listener.local_addr().unwrap()];
    (listener, SpeakerConfig { bmp, ..config_of(at, 65001, 65002) })
}

/// What a collector hears until two tables are complete: of each peer, by its AS, how many /16s were announced.
pub(super) async fn announced(listener: &TcpListener) -> Vec<(u32, usize)> {
    let mut collector = Collector::accept(listener).await;
    let (mut announced, mut complete) = (BTreeMap::new(), 0);
    while complete < 2 {
        let (kind, body) = collector.next().await.expect("the connection stays");
        if kind != ROUTE_MONITORING {
            continue;
        }
        let asn = u32::from_be_bytes([body[26], body[27], body[28], body[29]]);
        let update = &body[PEER_HEADER_LEN + HEADER_LEN..];
        let nlri = 4 + usize::from(u16::from_be_bytes([update[2], update[3]]));
        *announced.entry(asn).or_default() += (update.len() - nlri) / 3;
        complete += usize::from(update.len() == 4);
    }
    announced.into_iter().collect()
}

const PREFIX: &[u8] = &[16, 10, 1];

#[tokio::test]
async fn a_collector_hears_sessions_and_updates_as_they_come() {
    let at = addresses();
    let (listener, config) = with_collector(at).await;
    let peers = ByHand::listen(at);
    let h = started(&config).await;
    let mut collector = Collector::accept(&listener).await;
    assert_eq!(collector.next().await.unwrap().0, INITIATION);

    let mut peer = ByHand::new(peers.accept().await.unwrap().0);
    let ours = peer.establish(&open(65002, [10, 0, 0, 6])).await;
    let up = collector.expect(PEER_UP, at[1]).await;
    assert_eq!(up[18..20], LOOPBACK_PORT.to_be_bytes(), "the peer's port");
    let sent = frame(&up[20..], wire::MAX_MESSAGE_LEN).unwrap().unwrap();
    assert_eq!(Open::read(sent.body), Ok(ours), "the OPEN we sent");
    let received = frame(&up[20 + sent.len..], wire::MAX_MESSAGE_LEN).unwrap().unwrap();
    assert_eq!(Open::read(received.body), Ok(open(65002, [10, 0, 0, 6])), "the OPEN of the peer");

    let message = update(PLAIN, 1);
    peer.send(&message).await;
    assert_eq!(collector.expect(ROUTE_MONITORING, at[1]).await, message, "an UPDATE goes on as it is");
    let malformed = update(&[PLAIN, &[(COMMUNITIES, &[1, 2, 3])]].concat(), 1);
    peer.send(&malformed).await;
    assert_eq!(collector.routes(at[1]).await, (PREFIX.to_vec(), vec![]), "RFC 7606: withdrawn");

    let mut out = Vec::new();
    Notification::cease(iana::OTHER_CONFIGURATION_CHANGE).write(&mut out);
    peer.send(&out).await;
    assert_eq!(collector.expect(PEER_DOWN, at[1]).await, [&[3][..], &out].concat(), "with the peer's NOTIFICATION");

    h.configure(SpeakerConfig { bmp: vec![], ..config }).await.unwrap().unwrap();
    assert_eq!(collector.next().await.unwrap().0, TERMINATION);
    assert_eq!(collector.next().await, None);
}

#[tokio::test]
async fn a_collector_that_comes_late_hears_the_table() {
    let at = addresses();
    let (listener, mut config) = with_collector(at).await;
    let bmp = std::mem::take(&mut config.bmp);
    let peers = ByHand::listen(at);
    let h = started(&config).await;
    let mut peer = ByHand::new(peers.accept().await.unwrap().0);
    peer.establish(&open(65002, [10, 0, 0, 6])).await;
    peer.send(&update(PLAIN, 2)).await;
    until("routes", || async { h.peers().await[0].received == 2 }).await;

    h.configure(SpeakerConfig { bmp, ..config }).await.unwrap().unwrap();
    let mut collector = Collector::accept(&listener).await;
    assert_eq!(collector.next().await.unwrap().0, INITIATION);
    collector.expect(PEER_UP, at[1]).await;
    assert_eq!(collector.routes(at[1]).await, (vec![], vec![16, 10, 1, 16, 10, 2]), "one UPDATE for one set");
    assert_eq!(collector.routes(at[1]).await, (vec![], vec![]), "End-of-RIB");
    h.shut_down().await;
    let mut kinds = Vec::new();
    while let Some((kind, _)) = collector.next().await {
        kinds.push(kind);
    }
    assert_eq!(kinds, [PEER_DOWN, TERMINATION]);
}
