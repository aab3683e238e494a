//! CPU time and memory of the speaker under test, from /proc.

use std::collections::HashMap;
use std::fs;

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

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
    while let Some(pid) = todo.pop() {
        todo.extend(kids.get(&pid).into_iter().flatten());
        if let Some(f) = stat(pid) {
            out.cpu_s += cpu_s(pid);
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

/// The process's CPU clock: /proc counts in hundredths of a second, which is too coarse for what takes 10 ms.
fn cpu_s(pid: u32) -> f64 {
    let clock = i32::try_from(pid).ok().and_then(|pid| clock_getcpuclockid(Pid::from_raw(pid)).ok());
    let now = clock.and_then(|c| c.now().ok());
    now.map_or(0.0, |t| t.tv_sec() as f64 + t.tv_nsec() as f64 / 1e9)
}

/// Whether every one of `pids` still runs.
pub fn alive(pids: &[u32]) -> bool {
    pids.iter().all(|&p| stat(p).is_some_and(|f| f[0] != "Z"))
}

/// This process's own CPU seconds.
pub fn own_cpu() -> f64 {
    cpu_s(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_cpu_time_and_memory() {
        let before = own_cpu();
        let mut x = 1u64;
        while own_cpu() - before < 0.002 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        let now = sample(&[std::process::id()]);
        assert!(now.cpu_s > before && now.rss_kb > 0 && now.threads > 0);
        assert!(alive(&[std::process::id()]));
    }
}
