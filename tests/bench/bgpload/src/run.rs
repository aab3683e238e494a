//! One run: its phases, and what the clocks and counters said.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::engine::{Engine, Peer, nth_addr, router_id};
use crate::procstat::{self, Sample};
use crate::{Common, wire};

/// How often a phase looks whether the speaker still lives.
const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// A phase ends when more sessions than this have been lost in it.
const LOSSES: u32 = 3;

/// One run: its settings, and what has been measured until now.
pub struct Run<'a> {
    pub c: &'a Common,
    pub out: Map<String, Value>,
}

/// What the clocks said when a phase began.
#[derive(Clone, Copy)]
pub struct Start {
    pub t0: Instant,
    /// Of the speaker.
    before: Sample,
    /// Our own CPU seconds.
    own0: f64,
}

/// Seconds, to the microsecond.
pub fn secs(d: Duration) -> Value {
    json!(micro(d.as_secs_f64()))
}

fn micro(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}

/// Three digits.
pub fn r3(x: f64) -> Value {
    json!((x * 1e3).round() / 1e3)
}

/// What a peer says in its OPEN.
pub fn open_params(c: &Common, local: Ipv4Addr, asn: u32, v6: bool) -> wire::OpenParams {
    wire::OpenParams {
        asn,
        hold: c.hold,
        id: router_id(local),
        v4: !v6 || c.both_families,
        v6: v6 || c.both_families,
        route_refresh: true,
    }
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * q).round() as usize]
}

/// Quantiles of microseconds.
pub fn latencies(mut v: Vec<f64>) -> Value {
    if v.is_empty() {
        return Value::Null;
    }
    v.sort_by(f64::total_cmp);
    json!({"n": v.len(), "p50_us": r3(quantile(&v, 0.5)), "p90_us": r3(quantile(&v, 0.9)),
           "p99_us": r3(quantile(&v, 0.99)), "max_us": r3(v[v.len() - 1])})
}

impl<'a> Run<'a> {
    pub fn new(c: &'a Common, scenario: &str, params: Value) -> Run<'a> {
        let mut out = Map::new();
        out.insert("scenario".into(), json!(scenario));
        out.insert("label".into(), json!(c.label));
        out.insert("mode".into(), json!(format!("{:?}", c.mode).to_lowercase()));
        out.insert("params".into(), params);
        Run { c, out }
    }

    pub fn put(&mut self, key: &str, v: Value) {
        self.out.insert(key.into(), v);
    }

    pub fn start(&self) -> Start {
        Start { before: self.sample(), own0: procstat::own_cpu(), t0: Instant::now() }
    }

    pub fn sample(&self) -> Sample {
        procstat::sample(&self.c.pid)
    }

    /// Notes the speaker at rest.
    pub fn idle(&mut self) -> Sample {
        let idle = self.sample();
        self.put("idle", json!({"rss_kb": idle.rss_kb, "cpu_s": r3(idle.cpu_s), "threads": idle.threads}));
        idle
    }

    /// Notes what the whole run took.
    pub fn end(&mut self, e: &Engine) {
        let end = self.sample();
        self.put("total_cpu_s", r3(end.cpu_s));
        self.put("peak_kb", json!(end.peak_kb));
        self.put("session_losses", json!(e.downs()));
    }

    /// Notes why a phase did not end; the caller stops there.
    pub fn fail(&mut self, e: &Engine, phase: &str, who: &[usize]) {
        let dead = !self.c.pid.is_empty() && !procstat::alive(&self.c.pid);
        let behind: Vec<&Peer> = who.iter().map(|&i| &e.peers[i]).filter(|p| p.done_at.is_none()).collect();
        self.put(
            "error",
            json!({
                "phase": phase, "speaker_dead": dead, "established": e.established(), "session_losses": e.downs(),
                "not_done": behind.len(),
                "have_of_first": behind.first().map(|p| p.have), "want_of_first": behind.first().and_then(|p| p.target),
                "have_min": behind.iter().map(|p| p.have).min(),
                "last_error": e.peers.iter().map(|p| p.last_error.as_str()).find(|s| !s.is_empty()),
            }),
        );
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(self.c.timeout)
    }

    fn quiet(&self) -> Duration {
        Duration::from_millis(self.c.quiet_ms)
    }

    /// Brings up all peers that may connect; the time it took goes to "sessions".
    ///
    /// `None`: not all came up.
    pub fn establish(&mut self, e: &mut Engine) -> Option<()> {
        let t0 = Instant::now();
        let want = e.peers.iter().filter(|p| p.connect_at.is_some()).count();
        let ok = e.run(self.limit(), |e| e.established() == want);
        let mut ups: Vec<f64> =
            e.peers.iter().filter_map(|p| p.established_at).map(|t| (t - t0).as_secs_f64()).collect();
        ups.sort_by(f64::total_cmp);
        let last = ups.last().copied();
        self.put("sessions", json!({"wanted": want, "established": e.established(), "all_up_s": last.map(r3),
                                    "p50_up_s": (!ups.is_empty()).then(|| r3(quantile(&ups, 0.5))), "losses": e.downs()}));
        if !ok {
            self.fail(e, "establish", &[]);
            return None;
        }
        e.settle(self.quiet(), self.limit());
        Some(())
    }

    /// Waits for `who`, then for quiet, and describes the phase that began at `from`.
    ///
    /// `None`: it did not end.
    pub fn phase(&mut self, e: &mut Engine, key: &str, who: &[usize], from: Start, prefixes: u32) -> Option<()> {
        let done = |e: &Engine| who.iter().all(|&i| e.peers[i].done_at.is_some());
        let downs = e.downs();
        let mut check = Instant::now();
        let pids = &self.c.pid;
        let mut dead = false;
        e.run(self.limit(), |e| {
            if check.elapsed() > ALIVE_EVERY {
                check = Instant::now();
                dead = !pids.is_empty() && !procstat::alive(pids);
            }
            dead || e.downs() > downs + LOSSES || done(e)
        });
        if !done(e) {
            self.fail(e, key, who);
            return None;
        }
        // Less the silence that follows.
        let tool_cpu_s = procstat::own_cpu() - from.own0;
        e.settle(self.quiet(), self.limit());
        let mut v = self.describe(e, who, from, prefixes);
        v["tool_cpu_s"] = json!(micro(tool_cpu_s));
        self.put(key, v);
        Some(())
    }

    fn describe(&self, e: &Engine, who: &[usize], from: Start, prefixes: u32) -> Value {
        let Start { t0, before, .. } = from;
        let after = self.sample();
        let at = |t: Option<Instant>| t.map_or(0.0, |t| (t.max(t0) - t0).as_secs_f64());
        let done: Vec<f64> = who.iter().map(|&i| at(e.peers[i].done_at)).collect();
        let c = |f: &dyn Fn(&Peer) -> u64| who.iter().map(|&i| f(&e.peers[i])).sum::<u64>();
        let all = done.iter().copied().fold(0.0, f64::max);
        let updates = c(&|p| p.counts.updates);
        let nlri = c(&|p| p.counts.announced + p.counts.withdrawn);
        json!({
            "all_s": r3(all),
            "fastest_s": r3(done.iter().copied().fold(f64::MAX, f64::min)),
            "first_rx_s": r3(who.iter().map(|&i| at(e.peers[i].first_at)).fold(f64::MAX, f64::min)),
            "last_change_s": r3(who.iter().map(|&i| at(e.peers[i].last_at)).fold(0.0, f64::max)),
            "sent_s": r3(e.peers.iter().map(|p| at(p.sent_at)).fold(0.0, f64::max)),
            "prefixes_per_s": (f64::from(prefixes) / all).round(),
            "cpu_s": micro(after.cpu_s - before.cpu_s),
            "tool_cpu_s": null,
            "rx_updates": updates, "rx_nlri": nlri,
            "nlri_per_update": r3(nlri as f64 / updates.max(1) as f64),
            "rx_bytes": c(&|p| p.counts.bytes), "repeats": c(&|p| p.counts.repeats),
            "withdrawn": c(&|p| p.counts.withdrawn), "own_reflected": c(&|p| p.counts.own),
            "unknown": c(&|p| p.counts.unknown), "malformed": c(&|p| p.counts.malformed),
            "checked": c(&|p| p.check.as_ref().map_or(0, |c| c.checked)),
            "wrong_attributes": c(&|p| p.check.as_ref().map_or(0, |c| c.wrong)),
            "rss_kb": after.rss_kb, "peak_kb": after.peak_kb,
        })
    }
}

/// The next hop of sender `i`.
pub fn next_hop4(c: &Common, i: u32) -> Ipv4Addr {
    nth_addr(c.next_hop, i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_values() {
        let v = latencies(vec![3.0, 1.0, 2.0]);
        assert_eq!((&v["p50_us"], &v["p99_us"], &v["max_us"]), (&json!(2.0), &json!(3.0), &json!(3.0)));
        assert_eq!(latencies(Vec::new()), Value::Null);
    }
}
