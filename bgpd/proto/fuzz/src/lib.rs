//! What the fuzz targets share: a session's context and messages, made of fuzzed octets.

use bgp_proto::wire::attribute::Context;
use bgp_proto::wire::{MAX_EXTENDED_MESSAGE_LEN, MessageType, frame, write_message};

/// Takes a context off the front: every mix of what an OPEN can negotiate.
pub fn context(data: &[u8]) -> Option<(Context, &[u8])> {
    let (&[a, b], rest) = data.split_first_chunk::<2>()?;
    let bit = |octet: u8, n: u8| octet >> n & 1 != 0;
    let cx = Context {
        four_octet_as: bit(a, 0),
        ibgp: bit(a, 1),
        ipv4: bit(a, 2),
        ipv6: bit(a, 3),
        add_path_receive: [bit(a, 4), bit(a, 5)],
        extended_next_hop: bit(a, 6),
        extended_messages: bit(a, 7),
        local_address: [192, 0, 2, 99].into(),
        first_as: bit(b, 0).then_some(65001),
    };
    Some((cx, rest))
}

/// The body of a message that `write` appended, which must be one that is read.
pub fn body(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    let message = frame(&out, MAX_EXTENDED_MESSAGE_LEN).expect("what is written can be read").expect("and is whole");
    assert_eq!(message.len, out.len());
    message.body.to_vec()
}

/// A whole message with this body, cut to what a length can say.
pub fn message(kind: MessageType, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_message(&mut out, kind, |out| out.extend_from_slice(&data[..data.len().min(60_000)]));
    out
}
