//! Deterministic prefixes, attributes and pre-encoded UPDATE streams.
//!
//! A [`Universe`] numbers its prefixes 0..len, and maps a received prefix back
//! to its number by arithmetic and two small tables, so that a receiver costs
//! the machine next to nothing.

use crate::wire;
use std::net::{Ipv4Addr, Ipv6Addr};

/// AS numbers from here on tag the sender of a path (see [`Gen::attrs`]).
pub const TAG_AS: u32 = 4_200_000_000;

/// SplitMix64.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        ((self.next() as u128 * n as u128) >> 64) as u64
    }
}

/// How many prefixes of each length one block holds: (length, how many).
/// v4 blocks are /16s; the mix follows the public v4 table (57 % /24).
const V4_MIX: [(u8, usize); 9] = [(16, 1), (17, 1), (18, 2), (19, 4), (20, 5), (21, 5), (22, 11), (23, 10), (24, 52)];
/// v6 blocks are /32s; about half /48, like the public v6 table.
const V6_MIX: [(u8, usize); 6] = [(32, 4), (36, 4), (40, 5), (44, 6), (46, 1), (48, 20)];

/// The prefixes under the base length of a block, as nodes of a binary tree.
struct Layout {
    base: u8,
    depth: u8,
    /// number within the block to (length, bits below the base, left-aligned in `depth` bits)
    slots: Vec<(u8, u32)>,
    /// tree node (`1 << k | bits`) to number within the block, or `u16::MAX`
    back: Vec<u16>,
}

impl Layout {
    fn new(base: u8, mix: &[(u8, usize)]) -> Layout {
        let depth = mix.last().map_or(0, |m| m.0 - base);
        let mut slots = Vec::new();
        let mut back = vec![u16::MAX; 2 << depth];
        for &(len, want) in mix {
            let k = len - base;
            let room = 1usize << k;
            let take = want.min(room);
            for i in 0..take {
                let bits = (i * room / take) as u32;
                back[1 << k | bits as usize] = slots.len() as u16;
                slots.push((len, bits << (depth - k)));
            }
        }
        Layout { base, depth, slots, back }
    }
}

enum Kind {
    V4 {
        blocks: Vec<u16>,
        back: Vec<u16>,
    },
    V6,
    /// equal-sized v4 prefixes in sequence, such as Calico's /26 blocks
    Flat {
        base: u32,
        len: u8,
    },
}

/// A numbered set of prefixes.
pub struct Universe {
    kind: Kind,
    layout: Layout,
    len: u32,
}

impl Universe {
    /// Internet-like v4 prefixes, outside the special-purpose ranges.
    pub fn v4(len: u32) -> Universe {
        let layout = Layout::new(16, &V4_MIX);
        let special = |b: u16| {
            let (a, c) = ((b >> 8) as u8, b as u8);
            a == 0
                || a == 10
                || a == 127
                || a >= 224
                || (a == 100 && (64..128).contains(&c))
                || (a == 169 && c == 254)
                || (a == 172 && (16..32).contains(&c))
                || (a == 192 && (c == 0 || c == 168 || c == 88))
                || (a == 198 && (c == 18 || c == 19 || c == 51))
                || (a == 203 && c == 0)
        };
        let all: Vec<u16> = (0..=u16::MAX).filter(|&b| !special(b)).collect();
        let need = (len as usize).div_ceil(layout.slots.len());
        assert!(need <= all.len(), "at most {} v4 prefixes", all.len() * layout.slots.len());
        // scattered over the whole space: a stride that is coprime to the number of blocks
        let n = all.len();
        let mut stride = n * 618 / 1000;
        while gcd(stride, n) != 1 {
            stride += 1;
        }
        let blocks: Vec<u16> = (0..need).map(|i| all[i * stride % n]).collect();
        let mut back = vec![u16::MAX; 65536];
        for (i, &b) in blocks.iter().enumerate() {
            back[b as usize] = i as u16;
        }
        Universe { kind: Kind::V4 { blocks, back }, layout, len }
    }

    /// Internet-like v6 prefixes under 2a00::/12.
    pub fn v6(len: u32) -> Universe {
        let layout = Layout::new(32, &V6_MIX);
        assert!((len as usize).div_ceil(layout.slots.len()) <= 1 << 20);
        Universe { kind: Kind::V6, layout, len }
    }

    /// `len` prefixes of `plen` bits, one after the other from `base`.
    pub fn flat(base: Ipv4Addr, plen: u8, len: u32) -> Universe {
        Universe { kind: Kind::Flat { base: u32::from(base), len: plen }, layout: Layout::new(16, &V4_MIX), len }
    }

    #[cfg(test)]
    pub fn len(&self) -> u32 {
        self.len
    }

    pub fn is_v6(&self) -> bool {
        matches!(self.kind, Kind::V6)
    }

    /// Prefix `i` in wire form: its length octet and its bytes.
    pub fn put(&self, i: u32, buf: &mut Vec<u8>) {
        let per = self.layout.slots.len() as u32;
        let (len, addr): (u8, [u8; 16]) = match &self.kind {
            Kind::Flat { base, len } => {
                let a = base + (i << (32 - len));
                (*len, (u128::from(a) << 96).to_be_bytes())
            }
            Kind::V4 { blocks, .. } => {
                let (len, bits) = self.layout.slots[(i % per) as usize];
                let a = u32::from(blocks[(i / per) as usize]) << 16 | bits << (16 - self.layout.depth);
                (len, (u128::from(a) << 96).to_be_bytes())
            }
            Kind::V6 => {
                let (len, bits) = self.layout.slots[(i % per) as usize];
                let a =
                    u128::from(0x2a00_0000 | scatter20(i / per)) << 96 | u128::from(bits) << (96 - self.layout.depth);
                (len, a.to_be_bytes())
            }
        };
        buf.push(len);
        buf.extend_from_slice(&addr[..wire::plen(len)]);
    }

    /// The number of a received prefix.
    #[inline]
    pub fn index(&self, v6: bool, bytes: &[u8], len: u8) -> Option<u32> {
        let mut a = [0u8; 8];
        if bytes.len() > 8 {
            return None;
        }
        a[..bytes.len()].copy_from_slice(bytes);
        let hi = u64::from_be_bytes(a);
        let i = match &self.kind {
            Kind::Flat { base, len: want } => {
                let a = (hi >> 32) as u32;
                if v6 || len != *want || a < *base {
                    return None;
                }
                (a - base) >> (32 - len)
            }
            Kind::V4 { back, .. } => {
                if v6 {
                    return None;
                }
                let block = back[(hi >> 48) as usize];
                if block == u16::MAX {
                    return None;
                }
                u32::from(block) * self.layout.slots.len() as u32 + self.slot((hi >> 32 & 0xffff) as u32, 16, len)?
            }
            Kind::V6 => {
                let top = (hi >> 32) as u32;
                if !v6 || top & 0xfff0_0000 != 0x2a00_0000 {
                    return None;
                }
                unscatter20(top & 0xf_ffff) * self.layout.slots.len() as u32 + self.slot(hi as u32, 32, len)?
            }
        };
        (i < self.len).then_some(i)
    }

    /// Number within the block, of the prefix with `low` (the `width` bits below the base).
    #[inline]
    fn slot(&self, low: u32, width: u8, len: u8) -> Option<u32> {
        let l = &self.layout;
        if len < l.base || len > l.base + l.depth {
            return None;
        }
        let k = len - l.base;
        let bits = (u64::from(low) >> (width - k)) as usize;
        let s = l.back[1 << k | bits];
        (s != u16::MAX).then_some(u32::from(s))
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A bijection of 20-bit numbers, to scatter v6 blocks (an odd multiplier, and its inverse).
fn scatter20(i: u32) -> u32 {
    i.wrapping_mul(0x9_e375) & 0xf_ffff
}

fn unscatter20(i: u32) -> u32 {
    const INV: u32 = {
        let m: u32 = 0x9_e375;
        let mut x = m;
        let mut k = 0;
        while k < 6 {
            x = x.wrapping_mul(2u32.wrapping_sub(m.wrapping_mul(x)));
            k += 1;
        }
        x
    };
    i.wrapping_mul(INV) & 0xf_ffff
}

/// How prefixes share attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mix {
    /// like a full feed: about 6 prefixes an attribute set, very unevenly
    Internet,
    /// 16 attribute sets in all, UPDATEs packed full
    Shared,
    /// an attribute set for every prefix
    Unique,
}

/// What shapes the UPDATEs of one sender.
#[derive(Clone)]
pub struct Gen {
    pub seed: u64,
    pub ibgp: bool,
    pub asn: u32,
    pub sender: u32,
    pub senders: u32,
    pub next_hop4: Ipv4Addr,
    pub next_hop6: Ipv6Addr,
}

impl Gen {
    /// Which sender has the one shortest AS path to the prefixes of `group`.
    pub fn winner(seed: u64, group: u32, senders: u32) -> u32 {
        Rng(seed ^ 0x77 ^ u64::from(group) << 20).below(u64::from(senders)) as u32
    }

    /// The path attributes of one group, less MP_REACH_NLRI. Where several
    /// senders announce the same prefixes, the path of exactly one is shortest,
    /// and an AS number (`TAG_AS` + sender) says whose path it is.
    pub fn attrs(&self, group: u32, v6: bool, buf: &mut Vec<u8>) {
        // the part of the path that all senders share
        let mut r = Rng(self.seed ^ u64::from(group) << 16);
        wire::attr(buf, 0x40, 1, &[if r.below(10) == 0 { 2 } else { 0 }]);
        let mut path: Vec<u32> = Vec::with_capacity(16);
        if !self.ibgp {
            path.push(self.asn);
        }
        let tail = [2, 2, 3, 3, 3, 4, 4, 5][r.below(8) as usize];
        if self.senders > 1 {
            path.push(TAG_AS + self.sender);
            if Gen::winner(self.seed, group, self.senders) != self.sender {
                let mut own = Rng(self.seed ^ u64::from(group) << 16 ^ u64::from(self.sender + 1) << 48);
                for _ in 0..=own.below(3) {
                    path.push(2_300 + own.below(300) as u32);
                }
            }
        }
        for hop in 0..tail {
            // few transit networks, many origins
            // (below the private AS numbers, where the speaker's own might be: a loop)
            path.push(if hop + 1 == tail { 3_000 + r.below(60_000) as u32 } else { 200 + r.below(2_000) as u32 });
        }
        let mut seg = vec![2, path.len() as u8];
        path.iter().for_each(|a| seg.extend_from_slice(&a.to_be_bytes()));
        wire::attr(buf, 0x40, 2, &seg);
        if !v6 {
            wire::attr(buf, 0x40, 3, &self.next_hop4.octets());
        }
        if r.below(5) == 0 {
            wire::attr(buf, 0x80, 4, &(r.below(200) as u32).to_be_bytes());
        }
        if self.ibgp {
            wire::attr(buf, 0x40, 5, &100u32.to_be_bytes());
        }
        if r.below(20) == 0 {
            wire::attr(buf, 0x40, 6, &[]);
            let mut v = path.last().map_or(0, |&a| a).to_be_bytes().to_vec();
            v.extend_from_slice(&(0x0a00_0000 + r.below(1 << 20) as u32).to_be_bytes());
            wire::attr(buf, 0xc0, 7, &v);
        }
        if r.below(10) < 7 {
            let n = 1 + r.below(8);
            let mut c: Vec<u32> = (0..n).map(|_| ((200 + r.below(2_000)) << 16 | r.below(4_000)) as u32).collect();
            c.sort_unstable();
            c.dedup();
            let v: Vec<u8> = c.iter().flat_map(|c| c.to_be_bytes()).collect();
            wire::attr(buf, 0xc0, 8, &v);
        }
        if r.below(20) == 0 {
            let v: Vec<u8> =
                [20_000 + r.below(9) as u32, 1, r.below(500) as u32].iter().flat_map(|c| c.to_be_bytes()).collect();
            wire::attr(buf, 0xc0, 32, &v);
        }
    }

    /// Append UPDATEs that announce prefixes `from..to` with the attributes of `group`.
    pub fn announce(&self, u: &Universe, from: u32, to: u32, group: u32, out: &mut Vec<u8>) {
        let v6 = u.is_v6();
        let mut attrs = Vec::with_capacity(128);
        self.attrs(group, v6, &mut attrs);
        let mut i = from;
        let mut nlri = Vec::with_capacity(wire::MAX_MSG);
        while i < to {
            let room = wire::MAX_MSG - wire::HDR - 4 - attrs.len() - 32;
            nlri.clear();
            while i < to && nlri.len() + 9 <= room {
                u.put(i, &mut nlri);
                i += 1;
            }
            let at = wire::begin(out, wire::UPDATE);
            out.extend_from_slice(&[0, 0]);
            if v6 {
                let mp = 5 + 16 + nlri.len();
                out.extend_from_slice(&((attrs.len() + 4 + mp) as u16).to_be_bytes());
                out.extend_from_slice(&[0x90, 14]);
                out.extend_from_slice(&(mp as u16).to_be_bytes());
                out.extend_from_slice(&[0, 2, 1, 16]);
                out.extend_from_slice(&self.next_hop6.octets());
                out.push(0);
                out.extend_from_slice(&nlri);
                out.extend_from_slice(&attrs);
            } else {
                out.extend_from_slice(&(attrs.len() as u16).to_be_bytes());
                out.extend_from_slice(&attrs);
                out.extend_from_slice(&nlri);
            }
            wire::finish(out, at);
        }
    }

    /// The UPDATE stream for `groups` (see [`groups`]), beginning at a place
    /// of the sender's own so that senders of the same table do not run in step.
    /// `number` is that of the first group.
    pub fn stream(&self, u: &Universe, groups: &[u32], number: u32) -> Vec<u8> {
        let n = groups.len() - 1;
        let first = if self.senders > 1 { n * self.sender as usize / self.senders as usize } else { 0 };
        let mut out = Vec::with_capacity((groups[n] - groups[0]) as usize * 24);
        for k in 0..n {
            let g = (first + k) % n;
            self.announce(u, groups[g], groups[g + 1], number + g as u32, &mut out);
        }
        out.extend_from_slice(&end_of_rib(u.is_v6()));
        out
    }
}

/// End-of-RIB (RFC 4724).
pub fn end_of_rib(v6: bool) -> Vec<u8> {
    if v6 { wire::update(&[], &[0x80, 15, 3, 0, 2, 1], &[]) } else { wire::update(&[], &[], &[]) }
}

/// Split prefixes 0..n into runs that share attributes; element k is where run k begins.
pub fn groups(mix: Mix, seed: u64, n: u32) -> Vec<u32> {
    let mut r = Rng(seed ^ 0x9999);
    let mut starts = vec![0];
    let mut at = 0;
    while at < n {
        let size = match mix {
            Mix::Unique => 1,
            Mix::Shared => n.div_ceil(16),
            Mix::Internet => match r.below(100) {
                0..48 => 1,
                48..67 => 2,
                67..82 => 3 + r.below(3) as u32,
                82..94 => 6 + r.below(10) as u32,
                94..99 => 16 + r.below(45) as u32,
                _ => 61 + r.below(140) as u32,
            },
        };
        at = (at + size).min(n);
        starts.push(at);
    }
    starts
}

/// Which run a prefix is in.
pub fn group_of(groups: &[u32], i: u32) -> u32 {
    groups.partition_point(|&s| s <= i) as u32 - 1
}

/// UPDATEs that withdraw prefixes `from..to`, packed full.
pub fn withdraw(u: &Universe, from: u32, to: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity((to - from) as usize * 5);
    let mut i = from;
    let mut nlri = Vec::with_capacity(wire::MAX_MSG);
    while i < to {
        nlri.clear();
        while i < to && nlri.len() + 9 <= wire::MAX_MSG - 64 {
            u.put(i, &mut nlri);
            i += 1;
        }
        if u.is_v6() {
            let mut a = vec![0x90, 15];
            a.extend_from_slice(&((nlri.len() + 3) as u16).to_be_bytes());
            a.extend_from_slice(&[0, 2, 1]);
            a.extend_from_slice(&nlri);
            out.extend_from_slice(&wire::update(&[], &a, &[]));
        } else {
            out.extend_from_slice(&wire::update(&nlri, &[], &[]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn check(u: &Universe) {
        let mut seen = HashSet::new();
        for i in 0..u.len() {
            let mut b = Vec::new();
            u.put(i, &mut b);
            assert_eq!(u.index(u.is_v6(), &b[1..], b[0]), Some(i), "{i} {b:?}");
            assert!(seen.insert(b));
        }
    }

    #[test]
    fn numbers_come_back() {
        check(&Universe::v4(200_000));
        check(&Universe::v6(100_000));
        check(&Universe::flat(Ipv4Addr::new(10, 0, 0, 0), 26, 10_000));
    }

    #[test]
    fn stream_says_every_prefix_once() {
        for u in [Universe::v4(20_000), Universe::v6(20_000)] {
            for mix in [Mix::Internet, Mix::Shared, Mix::Unique] {
                let g = groups(mix, 7, u.len());
                let g1 = Gen {
                    seed: 7,
                    ibgp: false,
                    asn: 65001,
                    sender: 1,
                    senders: 3,
                    next_hop4: Ipv4Addr::new(198, 18, 0, 1),
                    next_hop6: "2001:db8::1".parse().unwrap(),
                };
                for (want, s) in [(true, g1.stream(&u, &g, 0)), (false, withdraw(&u, 0, u.len()))] {
                    let mut seen = HashSet::new();
                    let mut p = &s[..];
                    while !p.is_empty() {
                        let n = u16::from_be_bytes([p[16], p[17]]) as usize;
                        assert!(n <= wire::MAX_MSG);
                        wire::walk_update(&p[wire::HDR..n], &mut |x| {
                            assert_eq!(x.announce, want);
                            assert!(seen.insert(u.index(x.v6, x.bytes, x.len).unwrap()));
                        })
                        .unwrap();
                        p = &p[n..];
                    }
                    assert_eq!(seen.len(), u.len() as usize);
                }
            }
        }
    }
}
