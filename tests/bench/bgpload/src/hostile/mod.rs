//! Malformed and unexpected input: what the RFCs ask for, and what the speaker does.
//!
//! Every case has a session of its own, from an address of its own (speakers punish a peer that misbehaved by not talking
//! to it for a while), and a prefix of its own. A monitor session tells whether the speaker went on announcing the prefix,
//! with which attributes, or withdrew it. Afterwards a second prefix is announced to see that a session that stayed up
//! still works.

mod cases;
mod session;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use self::cases::{Case, For, Parts, Phase, cases};
use self::session::{Got, Seen, Session, notify, open_session, react, watch};
use crate::engine::nth_addr;
use crate::run::open_params;
use crate::wire::{self, KEEPALIVE, NOTIFICATION, update};
use crate::{Common, HostileArgs, Mode, procstat};

/// How long a session may take to come up, or a valid prefix to reach the monitor.
const UP: Duration = Duration::from_secs(3);
const REACH: Duration = Duration::from_secs(12);
/// A session that has come up must stay up for so long to count as established.
const STAYS_UP: Duration = Duration::from_millis(300);
/// What follows the first reaction to a hostile UPDATE is waited for so long.
const SETTLE: Duration = Duration::from_millis(200);
/// Attributes from this type on are ones that no speaker knows.
const FIRST_UNKNOWN: u8 = 98;

/// One case under way.
struct Attempt<'a> {
    c: &'a Common,
    case: &'a Case,
    /// Its number: the prefixes are 20.i/16 and 21.i/16.
    i: usize,
    local: Ipv4Addr,
    asn: u32,
    wait: Duration,
}

impl Attempt<'_> {
    /// What the speaker did.
    fn run(&self, mon: &mut Session) -> String {
        let outcome = match self.case.phase {
            Phase::Open => self.instead_of_open(self.local),
            Phase::Stranger => self.instead_of_open(Ipv4Addr::new(127, 99, 0, 1)),
            Phase::Confirm => self.instead_of_keepalive(),
            Phase::Silent => self.session(3).map(|mut s| react(&mut s, Duration::from_secs(6))),
            Phase::Up => self.established(mon),
        };
        outcome.unwrap_or_else(|e| e)
    }

    fn session(&self, hold: u16) -> Result<Session, String> {
        open_session(self.c, self.local, self.asn, hold).map_err(|e| format!("no session: {e}"))
    }

    fn instead_of_open(&self, from: Ipv4Addr) -> Result<String, String> {
        let mut s = Session::connect(self.c.target, from).map_err(|e| match (self.case.phase, e.kind()) {
            (Phase::Stranger, io::ErrorKind::TimedOut) => "no answer".into(),
            (Phase::Stranger, _) => "refused".into(),
            _ => format!("no connection: {e}"),
        })?;
        // A passive speaker may want to see something before it says its OPEN.
        s.send(&self.case.bytes);
        let until = Instant::now() + self.wait.max(Duration::from_millis(2500));
        loop {
            match s.next(until.saturating_duration_since(Instant::now())) {
                Got::Message(NOTIFICATION, b) => return Ok(notify(&b)),
                Got::Message(KEEPALIVE, _) => {
                    s.send(&wire::keepalive());
                    let stays = react(&mut s, STAYS_UP);
                    return Ok(if stays == "kept" { "established".into() } else { stays });
                }
                Got::Message(..) => {}
                Got::Closed => return Ok("closed".into()),
                Got::Nothing => return Ok("no answer".into()),
            }
        }
    }

    fn instead_of_keepalive(&self) -> Result<String, String> {
        let mut s = Session::connect(self.c.target, self.local).map_err(|e| format!("no connection: {e}"))?;
        s.send(&wire::open(&open_params(self.c, self.local, self.asn, false)));
        s.opened(UP, false).map_err(|e| format!("no session: {e}"))?;
        s.send(&self.case.bytes);
        Ok(react(&mut s, self.wait))
    }

    fn established(&self, mon: &mut Session) -> Result<String, String> {
        let mut s = self.session(240)?;
        let prefix = [20, self.i as u8];
        if !self.reaches(&mut s, mon, prefix, REACH) {
            return Err("no baseline: the monitor never saw the valid prefix".into());
        }
        s.send(&self.case.bytes);
        let mut seen = Seen::default();
        let until = Instant::now() + self.wait;
        let mut settled: Option<Instant> = None;
        while Instant::now() < until && settled.is_none_or(|t| t.elapsed() < SETTLE) {
            match s.next(Duration::from_millis(10)) {
                Got::Message(NOTIFICATION, b) => return Ok(notify(&b)),
                Got::Closed => return Ok("closed".into()),
                _ => {}
            }
            while watch(mon, prefix, Duration::from_millis(2), &mut seen) {}
            if settled.is_none() && (seen.announced || seen.withdrawn) {
                settled = Some(Instant::now());
            }
        }
        let what = outcome(self.case, &seen);
        if self.reaches(&mut s, mon, [21, self.i as u8], Duration::from_secs(2)) {
            return Ok(what.into());
        }
        Ok(match react(&mut s, Duration::from_millis(100)).as_str() {
            "kept" => format!("{what}, then deaf"),
            other => format!("{what}, then {other}"),
        })
    }

    /// Announces a valid prefix; whether the monitor is told of it.
    fn reaches(&self, s: &mut Session, mon: &mut Session, prefix: [u8; 2], limit: Duration) -> bool {
        let parts = Parts {
            asn: self.asn,
            ibgp: self.c.mode == Mode::Ibgp,
            prefix: [prefix[0], prefix[1], 0],
            next_hop: self.c.next_hop,
        };
        s.send(&update(&[], &parts.attrs(&[], false), &parts.nlri()));
        let mut seen = Seen::default();
        let until = Instant::now() + limit;
        while !seen.announced && Instant::now() < until {
            watch(mon, prefix, Duration::from_millis(50), &mut seen);
        }
        seen.announced
    }
}

/// What became of the prefix of a case whose session stayed up.
fn outcome(case: &Case, seen: &Seen) -> &'static str {
    match (seen.announced, seen.withdrawn) {
        (_, true) => "withdraw",
        (false, false) => "kept",
        (true, false) => match seen.attrs.iter().find(|a| a.0 == case.code) {
            Some((_, flags)) if case.code >= FIRST_UNKNOWN && flags & 0x20 != 0 => "passed on, partial",
            Some(_) if case.code >= FIRST_UNKNOWN => "passed on",
            None if case.must.contains(&"discarded") => "discarded",
            _ => "accepted",
        },
    }
}

/// Whether anything still accepts connections there: a speaker can lose its BGP task and live on.
fn listens(target: SocketAddr) -> bool {
    (0..3).any(|n| {
        std::thread::sleep(Duration::from_millis(100 * n));
        !matches!(Session::connect(target, Ipv4Addr::new(127, 98, 0, 1)), Err(e) if e.kind() == io::ErrorKind::ConnectionRefused)
    })
}

fn verdict(case: &Case, got: &str) -> &'static str {
    if case.must.contains(&got) {
        "right"
    } else if case.may.contains(&got) {
        "allowed"
    } else {
        "differs"
    }
}

/// Lists the cases, without a speaker.
fn list(todo: &[(usize, &Case)]) -> Vec<Value> {
    let row = |(_, k): &(usize, &Case)| {
        eprintln!("{:<48} RFC {:<20} {:<32} {}", k.name, k.rfc, k.must.join(" | "), k.may.join(" | "));
        json!({"case": k.name, "rfc": k.rfc, "must": k.must, "may": k.may})
    };
    todo.iter().map(row).collect()
}

/// Runs the cases that `a` asks for; the result has a row for each.
pub fn run(c: &Common, a: &HostileArgs) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("scenario".into(), json!("hostile"));
    out.insert("label".into(), json!(c.label));
    out.insert("mode".into(), json!(format!("{:?}", c.mode).to_lowercase()));
    let ibgp = c.mode == Mode::Ibgp;
    let all = cases(c);
    let todo: Vec<(usize, &Case)> =
        all.iter().enumerate().filter(|(_, k)| (k.mode == For::Ibgp) == ibgp && k.name.contains(&a.only)).collect();
    let rows = if a.list { list(&todo) } else { run_all(c, a, &todo, &mut out) };
    for verdict in ["right", "allowed", "differs"] {
        out.insert(verdict.into(), json!(rows.iter().filter(|r| r["verdict"] == verdict).count()));
    }
    out.insert("cases_n".into(), json!(rows.len()));
    out.insert("cases".into(), Value::Array(rows));
    out
}

fn run_all(c: &Common, a: &HostileArgs, todo: &[(usize, &Case)], out: &mut Map<String, Value>) -> Vec<Value> {
    let ibgp = c.mode == Mode::Ibgp;
    let monitor_as = if ibgp { c.dut_as } else { c.receiver_as };
    let mut rows = Vec::new();
    let mut monitor: Option<Session> = None;
    for (n, &(i, case)) in todo.iter().enumerate().skip(a.start) {
        let mut mon = match monitor.take().map_or_else(|| open_session(c, c.receiver_base, monitor_as, 240), Ok) {
            Ok(mon) => mon,
            Err(e) => {
                out.insert("error".into(), json!(format!("no monitor session: {e}")));
                break;
            }
        };
        let attempt = Attempt {
            c,
            case,
            i,
            // iBGP cases are numbered afresh, so that few addresses are needed.
            local: nth_addr(c.sender_base, if ibgp { n } else { i } as u32),
            asn: if ibgp { c.dut_as } else { c.sender_as },
            wait: Duration::from_secs_f64(a.wait),
        };
        let got = attempt.run(&mut mon);
        mon.send(&wire::keepalive());
        monitor = (!mon.closed).then_some(mon);
        let dead = (!c.pid.is_empty() && !procstat::alive(&c.pid)) || !listens(c.target);
        let verdict = if dead { "CRASH" } else { verdict(case, &got) };
        if !c.brief {
            let (must, may) = (case.must.join(" | "), case.may.join(" | "));
            let or = if may.is_empty() { "" } else { "; or " };
            eprintln!("{verdict:<8} {:<48} {got:<24} RFC {}: {must}{or}{may}", case.name, case.rfc);
        }
        rows.push(json!({"case": case.name, "rfc": case.rfc, "must": case.must, "may": case.may, "got": got,
                         "verdict": verdict}));
        if dead {
            out.insert("error".into(), json!(format!("the speaker died at: {}", case.name)));
            break;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(code: u8, must: &'static [&'static str]) -> Case {
        let (mode, phase) = (For::Ebgp, Phase::Up);
        Case { name: "", rfc: "", must, may: &["accepted"], phase, mode, bytes: Vec::new(), code }
    }

    #[test]
    fn an_outcome_is_what_the_monitor_saw() {
        let announced = |attrs: Vec<(u8, u8)>| Seen { announced: true, withdrawn: false, attrs };
        let discards = case(7, &["discarded"]);
        assert_eq!(outcome(&discards, &Seen::default()), "kept");
        assert_eq!(outcome(&discards, &Seen { withdrawn: true, ..Seen::default() }), "withdraw");
        assert_eq!(outcome(&discards, &announced(vec![])), "discarded");
        assert_eq!(outcome(&discards, &announced(vec![(7, 0xc0)])), "accepted");
        assert_eq!(outcome(&case(99, &[]), &announced(vec![(99, 0xe0)])), "passed on, partial");
        assert_eq!(outcome(&case(99, &[]), &announced(vec![(99, 0xc0)])), "passed on");
    }

    #[test]
    fn a_verdict_tells_right_from_allowed() {
        let case = case(7, &["withdraw"]);
        assert_eq!(
            [verdict(&case, "withdraw"), verdict(&case, "accepted"), verdict(&case, "closed")],
            ["right", "allowed", "differs"]
        );
    }
}
