//! `bgpload mass` and `hold`: many clients with few prefixes each.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::engine::{Engine, Peer, State, nth_addr};
use crate::feed::{self, Universe};
use crate::run::{Run, latencies, next_hop4, open_params, r3, secs};
use crate::{Common, HoldArgs, MassArgs, Mode, wire};

/// How long one more prefix may take to all clients.
const ONE_PREFIX: Duration = Duration::from_secs(40);

/// The attributes of a Calico-like node: nothing but the mandatory ones.
fn node_update(c: &Common, u: &Universe, i: u32, from: u32, to: u32) -> Vec<u8> {
    let mut attrs = Vec::new();
    wire::attr(&mut attrs, 0x40, 1, &[0]);
    if c.mode == Mode::Ibgp {
        wire::attr(&mut attrs, 0x40, 2, &[]);
    } else {
        let mut seg = vec![2, 1];
        seg.extend_from_slice(&c.sender_as.to_be_bytes());
        wire::attr(&mut attrs, 0x40, 2, &seg);
    }
    wire::attr(&mut attrs, 0x40, 3, &next_hop4(c, i).octets());
    if c.mode == Mode::Ibgp {
        wire::attr(&mut attrs, 0x40, 5, &100u32.to_be_bytes());
    }
    let mut out = Vec::new();
    let mut nlri = Vec::new();
    for k in from..to {
        u.put(k, &mut nlri);
        if nlri.len() > 3900 || k + 1 == to {
            out.extend_from_slice(&wire::update(&[], &attrs, &nlri));
            nlri.clear();
        }
    }
    out
}

/// The clients, and what each announces. `extra` prefixes are numbered beyond those.
fn clients(c: &Common, n: u32, each: u32, extra: u32) -> (Engine, Vec<Arc<Vec<u8>>>) {
    let total = n * each;
    let u = Arc::new(Universe::flat(Ipv4Addr::new(10, 0, 0, 0), 26, total + extra));
    let mut e = Engine::new(c, u.clone());
    let asn = if c.mode == Mode::Ibgp { c.dut_as } else { c.sender_as };
    let mut bytes = Vec::new();
    for i in 0..n {
        let local = nth_addr(c.sender_base, i);
        let mut p = Peer::new(IpAddr::V4(local), open_params(c, local, asn, false), total + extra);
        p.own = i * each..(i + 1) * each;
        e.peers.push(p);
        let mut m = node_update(c, &u, i, i * each, (i + 1) * each);
        m.extend_from_slice(&feed::end_of_rib(false));
        bytes.push(Arc::new(m));
    }
    (e, bytes)
}

/// All clients announce, and each must learn what all others have; then single blocks; then one client dies.
pub fn mass(c: &Common, a: &MassArgs) -> Map<String, Value> {
    let params = json!({"clients": a.clients, "prefixes_each": a.prefixes, "cold": a.cold});
    let (e, bytes) = clients(c, a.clients, a.prefixes, a.churn);
    let mut mass = Mass { run: Run::new(c, "mass", params), a, e, total: a.clients * a.prefixes };
    // `None`: a phase has failed, and the result says which.
    let _ = mass.phases(&bytes);
    mass.run.out
}

struct Mass<'a> {
    run: Run<'a>,
    a: &'a MassArgs,
    e: Engine,
    total: u32,
}

impl Mass<'_> {
    fn phases(&mut self, bytes: &[Arc<Vec<u8>>]) -> Option<()> {
        let all: Vec<usize> = (0..self.a.clients as usize).collect();
        let want = self.total - self.a.prefixes;
        if self.a.cold {
            for (p, b) in self.e.peers.iter_mut().zip(bytes) {
                p.on_up = Some(b.clone());
            }
            self.e.expect(all.iter().copied(), |_| want);
            let from = self.run.start();
            self.run.phase(&mut self.e, "converge", &all, from, self.total)?;
            let up = self.e.peers.iter().filter_map(|p| p.established_at).max().unwrap_or(from.t0);
            let (established, losses) = (self.e.established(), self.e.downs());
            let v = json!({"wanted": all.len(), "established": established, "all_up_s": secs(up - from.t0),
                           "losses": losses});
            self.run.put("sessions", v);
        } else {
            self.run.establish(&mut self.e)?;
            self.run.idle();
            self.e.reset();
            self.e.expect(all.iter().copied(), |_| want);
            let from = self.run.start();
            for (i, b) in bytes.iter().enumerate() {
                self.e.send(i, b.clone());
            }
            self.run.phase(&mut self.e, "converge", &all, from, self.total)?;
        }
        if self.a.churn > 0 {
            self.churn()?;
        }
        if self.a.clients > 2 {
            self.node_loss()?;
        }
        self.run.end(&self.e);
        Some(())
    }

    /// One client announces one more block: until every other one knows.
    fn churn(&mut self) -> Option<()> {
        let others: Vec<usize> = (1..self.a.clients as usize).collect();
        let u = self.e.universe.clone();
        let mut took = Vec::new();
        self.e.peers[0].own = 0..0;
        self.e.peers[0].target = None;
        for k in 0..self.a.churn {
            let m = node_update(self.run.c, &u, 0, self.total + k, self.total + k + 1);
            let want = self.total - self.a.prefixes + k + 1;
            self.e.expect(others.iter().copied(), |_| want);
            let t = Instant::now();
            self.e.send(0, Arc::new(m));
            if !self.e.run(ONE_PREFIX, |e| others.iter().all(|&r| e.peers[r].done_at.is_some())) {
                self.run.fail(&self.e, "churn", &others);
                return None;
            }
            let last = others.iter().filter_map(|&r| self.e.peers[r].done_at).max().unwrap_or(t);
            took.push((last - t).as_secs_f64() * 1e6);
        }
        self.run.put("churn_to_all", latencies(took));
        Some(())
    }

    /// One client dies: until every other one has lost its blocks.
    fn node_loss(&mut self) -> Option<()> {
        let gone = self.a.clients as usize - 1;
        let rest: Vec<usize> = (1..gone).collect();
        let each = self.a.prefixes;
        self.e.reset();
        self.e.expect(rest.iter().copied(), |p| p.have - each);
        let from = self.run.start();
        self.e.drop_session(gone);
        self.run.phase(&mut self.e, "node_loss", &rest, from, each)
    }
}

/// Keeps sessions up, and says how many are.
pub fn hold(c: &Common, a: &HoldArgs) -> Map<String, Value> {
    let mut run = Run::new(c, "hold", json!({"peers": a.peers, "prefixes_each": a.prefixes, "seconds": a.seconds}));
    let (mut e, bytes) = clients(c, a.peers, a.prefixes, 0);
    for (p, b) in e.peers.iter_mut().zip(bytes) {
        p.on_up = (a.prefixes > 0).then_some(b);
    }
    let (t0, before) = (Instant::now(), run.sample());
    let mut told = t0;
    let mut full: Option<Duration> = None;
    let limit = if a.seconds == 0 { Duration::from_secs(u64::from(u32::MAX)) } else { Duration::from_secs(a.seconds) };
    e.run(limit, |e| {
        let up = e.established();
        if up == a.peers as usize && full.is_none() {
            full = Some(t0.elapsed());
        }
        if told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            let known: u64 = e.peers.iter().map(|p| u64::from(p.have)).sum();
            eprintln!(
                "{:6.0} s: {up}/{} up, {} lost, {known} prefixes known in all",
                t0.elapsed().as_secs_f64(),
                a.peers,
                e.downs()
            );
        }
        false
    });
    let end = run.sample();
    run.put("established", json!(e.peers.iter().filter(|p| p.state == State::Established).count()));
    run.put("all_up_s", full.map_or(Value::Null, secs));
    run.put("session_losses", json!(e.downs()));
    run.put("cpu_s", r3(end.cpu_s - before.cpu_s));
    run.put("rss_kb", json!(end.rss_kb));
    run.out
}
