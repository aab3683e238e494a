//! A lab leaves nothing behind, however it ends, and two at once do not meet.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};
use harness::cluster::{Lab, Options, program};
use harness::evidence::eventually;
use harness::guard;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LIMIT: Duration = Duration::from_secs(30);

/// Everything on this machine that carries the id of a lab.
fn traces(id: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut look = |what: &str, text: String, needle: String| {
        found.extend(text.lines().filter(|l| l.contains(&needle)).map(|l| format!("{what}: {l}")));
    };
    let names = |dir: &str| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).collect::<Vec<_>>().join("\n")
    };
    look("namespace", names("/run/netns"), guard::netns_prefix(id));
    look("directory", names(guard::LABS), id.to_string());
    look("mount", std::fs::read_to_string("/proc/mounts").unwrap(), id.to_string());
    let cgroups = guard::cgroup_mount().map(|m| names(&m.display().to_string())).unwrap_or_default();
    look("cgroup", cgroups, format!("tortie-lab-{id}"));
    for pid in names("/proc").lines().filter(|n| n.chars().all(|c| c.is_ascii_digit())) {
        let in_lab = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // Ended, and its parent (init, after a kill -9) has not looked yet: it holds nothing.
        if command.is_empty() {
            continue;
        }
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        look("process", format!("{pid} {} {command}", in_lab.replace('\n', " ")), format!("tortie-lab-{id}"));
    }
    found
}

/// Starts `lab quickstart` and waits until it has built its switches.
fn start_quickstart() -> (Child, String) {
    let mut child = Command::new(program("lab").unwrap())
        .arg("quickstart")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let id = format!("{}x0", child.id());
    eventually(LIMIT, "the lab has a switch", || {
        if guard::dir(&id).join("leaf1/bgpd.vty").exists() { Ok(()) } else { bail!("not yet") }
    })
    .unwrap();
    (child, id)
}

#[test]
#[ignore = "needs FRR"]
fn a_lab_that_ends_leaves_nothing() {
    let lab = Lab::build(Options::default()).unwrap();
    let id = lab.id().to_string();
    let there = traces(&id);
    for what in ["namespace", "directory", "mount", "cgroup", "process"] {
        assert!(there.iter().any(|t| t.starts_with(what)), "no {what} of a running lab is found: {there:?}");
    }
    drop(lab);
    assert_eq!(traces(&id), BTreeSet::new());
}

#[test]
#[ignore = "needs FRR"]
fn a_step_that_fails_leaves_nothing() {
    let id = std::thread::spawn(|| -> Result<String> {
        let lab = Lab::build(Options::default())?;
        let id = lab.id().to_string();
        let failed = eventually(Duration::from_millis(50), "pigs fly", || -> Result<()> { bail!("none in sight") });
        assert!(failed.is_err());
        std::panic::resume_unwind(Box::new(id));
    })
    .join()
    .unwrap_err();
    let id = id.downcast::<String>().unwrap();
    assert_eq!(traces(&id), BTreeSet::new());
}

#[test]
#[ignore = "needs FRR"]
fn an_interrupted_lab_leaves_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (mut child, id) = start_quickstart();
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let status = eventually(LIMIT, "it ends", || match child.try_wait()? {
            Some(status) => Ok(status),
            None => bail!("it runs"),
        })
        .unwrap();
        assert_eq!(status.code(), Some(130));
        assert_eq!(traces(&id), BTreeSet::new(), "after {signal}");
    }
}

#[test]
#[ignore = "needs FRR"]
fn what_a_killed_lab_left_goes_with_the_next_one() {
    let (mut child, id) = start_quickstart();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_ne!(traces(&id), BTreeSet::new(), "kill -9 leaves something, or this test shows nothing");
    drop(guard::Guard::new().unwrap());
    assert_eq!(traces(&id), BTreeSet::new());
}

#[test]
#[ignore = "needs FRR"]
fn two_labs_at_once_do_not_meet() {
    let first = std::thread::spawn(|| Lab::build(Options::default()));
    let second = Lab::build(Options::default()).unwrap();
    let first = first.join().unwrap().unwrap();
    assert_ne!(first.id(), second.id());
    let id = first.id().to_string();
    drop(first);
    assert_eq!(traces(&id), BTreeSet::new());
    for leaf in &second.leaves {
        leaf.show_routes().unwrap();
    }
}
