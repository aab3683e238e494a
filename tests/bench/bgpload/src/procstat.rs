//! CPU time and memory of the speaker under test, from /proc.

use std::collections::HashMap;
use std::fs;

use nix::unistd::{SysconfVar, sysconf};

/// One sample over a set of processes and all their descendants.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    pub cpu_s: f64,
    pub rss_kb: u64,
    pub peak_kb: u64,
    pub threads: u64,
}

fn children() -> HashMap<u32, Vec<u32>> {
    let mut map: HashMap<u32, Vec<u32>> = HashMap::new();
    for e in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = e.file_name().to_str().and_then(|s| s.parse::<u32>().ok()) else { continue };
        if let Some(f) = stat(pid) {
            map.entry(f[1].parse().unwrap_or(0)).or_default().push(pid);
        }
    }
    map
}

/// The fields of /proc/PID/stat after the command name: 0 is the state, 1 the parent.
fn stat(pid: u32) -> Option<Vec<String>> {
    let s = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(s[s.rfind(')')? + 2..].split(' ').map(str::to_owned).collect())
}

/// Sum over `pids` and their descendants.
pub fn sample(pids: &[u32]) -> Sample {
    let mut out = Sample::default();
    if pids.is_empty() {
        return out;
    }
    let kids = children();
    let mut todo = pids.to_vec();
    let hz = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
    while let Some(pid) = todo.pop() {
        todo.extend(kids.get(&pid).into_iter().flatten());
        if let Some(f) = stat(pid) {
            let ticks: f64 = f[11..13].iter().filter_map(|x| x.parse::<f64>().ok()).sum();
            out.cpu_s += ticks / hz;
            out.threads += f[17].parse::<u64>().unwrap_or(0);
        }
        for line in fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default().lines() {
            let kb = || line.split_whitespace().nth(1).and_then(|x| x.parse::<u64>().ok()).unwrap_or(0);
            if line.starts_with("VmRSS:") {
                out.rss_kb += kb();
            } else if line.starts_with("VmHWM:") {
                out.peak_kb += kb();
            }
        }
    }
    out
}

/// Whether every one of `pids` still runs.
pub fn alive(pids: &[u32]) -> bool {
    pids.iter().all(|&p| stat(p).is_some_and(|f| f[0] != "Z"))
}

/// This process's own CPU seconds.
pub fn own_cpu() -> f64 {
    sample(&[std::process::id()]).cpu_s
}
