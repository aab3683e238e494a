//! `bgpload load`: senders load a table, receivers must get it; then single prefixes, a late joiner, withdrawal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::check::Check;
use crate::engine::{Engine, Peer, nth_addr};
use crate::feed::{self, Gen, Universe};
use crate::run::{Run, latencies, next_hop4, open_params, r3};
use crate::{Common, LoadArgs, Mode, WithdrawBy};

/// How long one single prefix may take.
const ONE_PREFIX: Duration = Duration::from_secs(40);
/// A speaker that runs on timers would take all day for the single prefixes: a round ends after so much waiting.
const LATENCY_LIMIT_US: f64 = 60e6;

/// The peers of one run and what they say.
struct Load<'a> {
    run: Run<'a>,
    a: &'a LoadArgs,
    e: Engine,
    u: Arc<Universe>,
    /// Prefixes of all senders together.
    total: u32,
    groups: Arc<Vec<u32>>,
    gens: Vec<Gen>,
    streams: Vec<Arc<Vec<u8>>>,
    /// Receivers that are there from the beginning.
    rx: Vec<usize>,
    late: Option<usize>,
}

/// Runs the phases that `a` asks for; one that fails is the last.
pub fn load(c: &Common, a: &LoadArgs) -> Map<String, Value> {
    let mut load = Load::new(c, a);
    // `None`: a phase has failed, and the result says which.
    let _ = load.phases();
    load.run.out
}

fn next_hop6(c: &Common, i: u32) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(c.next_hop6) + u128::from(i))
}

impl<'a> Load<'a> {
    fn new(c: &'a Common, a: &'a LoadArgs) -> Load<'a> {
        let family = if a.v6 { "v6" } else { "v4" };
        let params = json!({
            "family": family, "senders": a.senders, "receivers": a.receivers, "stalled": a.stalled,
            "prefixes_each": a.prefixes, "same_prefixes": a.same, "mix": format!("{:?}", a.mix).to_lowercase(),
        });
        let total = if a.same { a.prefixes } else { a.prefixes * a.senders };
        let size = total + a.latency;
        let u = Arc::new(if a.v6 { Universe::v6(size) } else { Universe::v4(size) });
        let mut load = Load {
            run: Run::new(c, "load", params),
            a,
            e: Engine::new(c, u.clone()),
            u,
            total,
            groups: Arc::new(feed::groups(a.mix, c.seed, a.prefixes)),
            gens: Vec::new(),
            streams: Vec::new(),
            rx: Vec::new(),
            late: None,
        };
        (0..a.senders).for_each(|i| load.add_sender(i, size));
        load.add_receivers(size);
        let octets: usize = load.streams.iter().map(|s| s.len()).sum();
        let sets = (load.groups.len() - 1) as u32 * if a.same { 1 } else { a.senders };
        load.run.put("wire_bytes", json!(octets));
        load.run.put("attr_sets", json!(sets));
        load
    }

    fn peer(&self, local: Ipv4Addr, own_as: u32, size: u32) -> Peer {
        let c = self.run.c;
        let asn = if c.mode == Mode::Ibgp { c.dut_as } else { own_as };
        Peer::new(IpAddr::V4(local), open_params(c, local, asn, self.a.v6), size)
    }

    fn add_sender(&mut self, i: u32, size: u32) {
        let (c, a) = (self.run.c, self.a);
        let mut p = self.peer(nth_addr(c.sender_base, i), c.sender_as, size);
        // Whatever the speaker sends back of a table to its own senders is theirs.
        p.own = 0..size;
        let g = Gen {
            seed: c.seed,
            ibgp: c.mode == Mode::Ibgp,
            asn: p.open.asn,
            sender: i,
            senders: if a.same { a.senders } else { 1 },
            next_hop4: next_hop4(c, i),
            next_hop6: next_hop6(c, i),
        };
        self.e.peers.push(p);
        let base = if a.same { 0 } else { a.prefixes * i };
        let mine: Vec<u32> = self.groups.iter().map(|s| s + base).collect();
        let number = if a.same { 0 } else { i * self.groups.len() as u32 };
        self.streams.push(Arc::new(g.stream(&self.u, &mine, number)));
        self.gens.push(g);
    }

    fn add_receivers(&mut self, size: u32) {
        let (c, a) = (self.run.c, self.a);
        let late = a.receivers + a.stalled;
        for i in 0..late + u32::from(a.late) {
            let mut p = self.peer(nth_addr(c.receiver_base, i), c.receiver_as, size);
            let index = self.e.peers.len();
            if i < a.receivers {
                self.rx.push(index);
            } else if i < late {
                p.stalled = true;
            } else {
                p.connect_at = None;
                self.late = Some(index);
            }
            if a.same && a.senders > 1 {
                p.tags = (i == 0).then(|| vec![255; size as usize]);
            } else if !p.stalled {
                p.check = Some(Check::new(self.groups.clone(), a.prefixes, &self.gens, c.dut_as));
            }
            self.e.peers.push(p);
        }
    }

    fn phases(&mut self) -> Option<()> {
        self.run.establish(&mut self.e)?;
        self.table()?;
        if self.a.latency > 0 {
            self.latency()?;
        }
        if let Some(late) = self.late {
            self.e.peers[late].connect_at = Some(Instant::now());
            self.e.reset();
            self.e.expect([late], |_| self.total);
            let from = self.run.start();
            self.run.phase(&mut self.e, "late_joiner", &[late], from, self.total)?;
        }
        if self.a.withdraw != WithdrawBy::None && !self.rx.is_empty() {
            self.withdraw()?;
        }
        self.run.end(&self.e);
        Some(())
    }

    /// The load itself, and what it takes of memory.
    fn table(&mut self) -> Option<()> {
        let idle = self.run.idle();
        self.e.reset();
        self.e.expect(self.rx.iter().copied(), |_| self.total);
        let from = self.run.start();
        for (i, s) in self.streams.iter().enumerate() {
            self.e.send(i, s.clone());
        }
        self.run.phase(&mut self.e, "load", &self.rx, from, self.total)?;
        let loaded = self.run.sample();
        let grown = loaded.rss_kb.saturating_sub(idle.rss_kb) as f64 * 1024.0;
        let paths = f64::from(self.a.prefixes) * f64::from(self.a.senders);
        let mem = json!({
            "rss_kb": loaded.rss_kb, "peak_kb": loaded.peak_kb,
            "bytes_per_prefix": (grown / f64::from(self.total)).round(), "bytes_per_path": (grown / paths).round(),
        });
        self.run.put("mem", mem);
        if let Some(tags) = self.rx.first().and_then(|&r| self.e.peers[r].tags.as_ref()) {
            let winner = |i| Gen::winner(self.run.c.seed, feed::group_of(&self.groups, i), self.a.senders);
            let right = (0..self.total).filter(|&i| u32::from(tags[i as usize]) == winner(i)).count();
            self.run.put("best_path_ok", json!(right as f64 / f64::from(self.total)));
        }
        Some(())
    }

    /// One prefix at a time, announced, and withdrawn again.
    fn latency(&mut self) -> Option<()> {
        let before = self.run.sample();
        let mut announced = Vec::new();
        for k in 0..self.a.latency {
            let i = self.total + k;
            let mut m = Vec::new();
            self.gens[0].announce(&self.u, i, i + 1, 1_000_000 + k, &mut m);
            announced.push(self.one(m, i + 1)?);
            if announced.iter().sum::<f64>() > LATENCY_LIMIT_US {
                break;
            }
        }
        let end = self.total + announced.len() as u32;
        let mut withdrawn = Vec::new();
        for i in (self.total..end).rev() {
            if withdrawn.iter().sum::<f64>() < LATENCY_LIMIT_US {
                withdrawn.push(self.one(feed::withdraw(&self.u, i, i + 1), i)?);
            } else {
                // The rest at once.
                self.one(feed::withdraw(&self.u, self.total, i + 1), self.total)?;
                break;
            }
        }
        let cpu = self.run.sample().cpu_s - before.cpu_s;
        let v = json!({"announce": latencies(announced), "withdraw": latencies(withdrawn), "cpu_s": r3(cpu)});
        self.run.put("latency", v);
        Some(())
    }

    /// Sends `m`; the microseconds until every receiver has `want` prefixes.
    fn one(&mut self, m: Vec<u8>, want: u32) -> Option<f64> {
        self.e.expect(self.rx.iter().copied(), |_| want);
        let t = Instant::now();
        self.e.send(0, Arc::new(m));
        let rx = &self.rx;
        if !self.e.run(ONE_PREFIX, |e| rx.iter().all(|&r| e.peers[r].done_at.is_some())) {
            self.run.fail(&self.e, "latency", &self.rx);
            return None;
        }
        let last = self.rx.iter().filter_map(|&r| self.e.peers[r].done_at).max().unwrap_or(t);
        Some((last - t).as_secs_f64() * 1e6)
    }

    fn withdraw(&mut self) -> Option<()> {
        let who: Vec<usize> = self.rx.iter().copied().chain(self.late).collect();
        self.e.reset();
        self.e.expect(who.iter().copied(), |_| 0);
        let messages: Vec<Arc<Vec<u8>>> = (0..self.a.senders)
            .map(|i| {
                let base = if self.a.same { 0 } else { self.a.prefixes * i };
                Arc::new(feed::withdraw(&self.u, base, base + self.a.prefixes))
            })
            .collect();
        let from = self.run.start();
        for (i, m) in messages.into_iter().enumerate() {
            match self.a.withdraw {
                WithdrawBy::Session => self.e.drop_session(i),
                _ => self.e.send(i, m),
            }
        }
        self.run.phase(&mut self.e, "withdraw", &who, from, self.total)
    }
}
