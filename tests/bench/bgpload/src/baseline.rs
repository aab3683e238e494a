//! The physical limits of a machine: what the cheapest possible speaker would cost.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::feed::{self, Gen, Mix, Universe};
use crate::wire;

/// A multiply-and-rotate hash, as cheap as hashing gets.
#[derive(Default)]
struct Fast(u64);

impl Hasher for Fast {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
    fn write(&mut self, b: &[u8]) {
        for c in b.chunks(8) {
            let mut a = [0; 8];
            a[..c.len()].copy_from_slice(c);
            self.write_u64(u64::from_le_bytes(a));
        }
    }
    fn write_u64(&mut self, x: u64) {
        self.0 = (self.0.rotate_left(5) ^ x).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<Fast>>;

type AttributeSets = FastMap<Box<[u8]>, u32>;

fn messages(mut p: &[u8], mut f: impl FnMut(&[u8])) {
    while p.len() >= wire::HDR {
        let n = u16::from_be_bytes([p[16], p[17]]) as usize;
        f(&p[wire::HDR..n]);
        p = &p[n..];
    }
}

fn key(bytes: &[u8], len: u8) -> u64 {
    let mut a = [0u8; 8];
    a[..bytes.len().min(7)].copy_from_slice(&bytes[..bytes.len().min(7)]);
    u64::from_be_bytes(a) | u64::from(len)
}

fn median(mut f: impl FnMut() -> f64) -> f64 {
    let mut v: Vec<f64> = (0..5).map(|_| f()).collect();
    v.sort_by(f64::total_cmp);
    v[2]
}

/// Measures them all.
pub fn run(prefixes: u32, seed: u64) -> Map<String, Value> {
    let u = Universe::v4(prefixes);
    let groups = feed::groups(Mix::Internet, seed, prefixes);
    let g = Gen {
        seed,
        ibgp: false,
        asn: 65001,
        sender: 0,
        senders: 1,
        next_hop4: Ipv4Addr::new(198, 18, 0, 1),
        next_hop6: Ipv6Addr::LOCALHOST,
    };
    let s = g.stream(&u, &groups, 0);
    let mut out = Map::new();
    out.insert("scenario".into(), json!("baseline"));
    out.insert("prefixes".into(), json!(prefixes));
    out.insert("wire_bytes".into(), json!(s.len()));
    out.insert("attr_sets".into(), json!(groups.len() - 1));
    let mut put = |k: &str, v: f64| {
        out.insert(k.into(), json!((v * 1e5).round() / 1e5));
    };

    put("memcpy_s", median(|| seconds(|| s.to_vec())));
    put("parse_s", median(|| seconds(|| parse(&s))));
    put("parse_hash_insert_s", median(|| seconds(|| insert(&s, 0))));
    put("parse_hash_insert_presized_s", median(|| seconds(|| insert(&s, prefixes as usize))));
    put("parse_insert_reencode_s", median(|| seconds(|| reencode(&s, prefixes as usize))));
    for (name, size) in [("tcp_1gib_s", 1usize << 30), ("tcp_stream_s", s.len())] {
        match (0..5).map(|_| tcp(&s, size)).collect::<io::Result<Vec<f64>>>() {
            Ok(v) => {
                let mut v = v.into_iter();
                put(name, median(|| v.next().unwrap_or(0.0)));
            }
            Err(e) => eprintln!("{name}: {e}"),
        }
    }
    out
}

fn seconds<R>(f: impl FnOnce() -> R) -> f64 {
    let t = Instant::now();
    black_box(f());
    t.elapsed().as_secs_f64()
}

/// Walks every message and prefix.
fn parse(s: &[u8]) -> u64 {
    let mut sum = 0u64;
    messages(s, |b| {
        wire::walk_update(b, &mut |x| sum = sum.wrapping_add(key(x.bytes, x.len)));
    });
    sum
}

/// Interns the attributes of each message, and puts every prefix into a hash map.
fn insert(s: &[u8], room: usize) -> (FastMap<u64, u32>, AttributeSets) {
    let mut rib: FastMap<u64, u32> = HashMap::with_capacity_and_hasher(room, Default::default());
    let mut sets: AttributeSets = HashMap::default();
    messages(s, |b| {
        let wl = u16::from_be_bytes([b[0], b[1]]) as usize;
        let al = u16::from_be_bytes([b[2 + wl], b[3 + wl]]) as usize;
        let block = &b[4 + wl..4 + wl + al];
        let next = sets.len() as u32;
        let id = match sets.get(block) {
            Some(&id) => id,
            None => {
                sets.insert(block.into(), next);
                next
            }
        };
        wire::walk_update(b, &mut |x| {
            rib.insert(key(x.bytes, x.len), id);
        });
    });
    (rib, sets)
}

/// The same, and encodes it again for one receiver, a message for each message.
fn reencode(s: &[u8], room: usize) -> Vec<u8> {
    let mut rib: FastMap<u64, u32> = HashMap::with_capacity_and_hasher(room, Default::default());
    let mut sets: AttributeSets = HashMap::default();
    let mut tx: Vec<u8> = Vec::with_capacity(s.len() * 2);
    messages(s, |b| {
        let mut nlri = Vec::with_capacity(64);
        let next = sets.len() as u32;
        let mut attrs = Vec::with_capacity(160);
        let block = wire::walk_update(b, &mut |x| {
            rib.insert(key(x.bytes, x.len), next);
            nlri.push(x.len);
            nlri.extend_from_slice(x.bytes);
        });
        let Some(block) = block else { return };
        sets.entry(block.into()).or_insert(next);
        for (f, c, v) in wire::attrs(block) {
            wire::attr(&mut attrs, f, c, v);
        }
        tx.extend_from_slice(&wire::update(&[], &attrs, &nlri));
    });
    black_box((&rib, &sets));
    tx
}

/// Raw loopback TCP, a thread each side: the seconds for `size` octets.
fn tcp(s: &[u8], size: usize) -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?;
    let data = s.to_vec();
    let sender = std::thread::spawn(move || -> io::Result<()> {
        let mut c = TcpStream::connect(at)?;
        let mut left = size;
        while left > 0 {
            let n = left.min(data.len()).min(1 << 20);
            c.write_all(&data[..n])?;
            left -= n;
        }
        Ok(())
    });
    let (mut c, _) = listener.accept()?;
    let mut buf = vec![0; 256 * 1024];
    let (t, mut got) = (Instant::now(), 0);
    while got < size {
        match c.read(&mut buf)? {
            0 => break,
            n => got += n,
        }
    }
    let took = t.elapsed().as_secs_f64();
    sender.join().unwrap_or_else(|_| Err(io::Error::other("the sender panicked")))?;
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_is_inserted_once_and_encoded_again() {
        let u = Universe::v4(2000);
        let groups = feed::groups(Mix::Internet, 5, 2000);
        let g = Gen {
            seed: 5,
            ibgp: false,
            asn: 65001,
            sender: 0,
            senders: 1,
            next_hop4: Ipv4Addr::LOCALHOST,
            next_hop6: Ipv6Addr::LOCALHOST,
        };
        let s = g.stream(&u, &groups, 0);
        let (rib, _) = insert(&s, 0);
        assert_eq!(rib.len(), 2000);
        assert_eq!(parse(&reencode(&s, 0)), parse(&s));
    }
}
