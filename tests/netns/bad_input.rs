//! What an operator gets wrong: each a message that says what and where and what to do, exit code 1, nothing half applied.

use harness::cluster::{Lab, Options, program};
use harness::exec::Output;
use harness::main_job::resources::items;
use harness::main_job::{Job, SETTLE};

fn assert_refused(output: &Output, words: &[&str]) {
    let said = output.text();
    assert_eq!(output.code, 1, "`{}`: {said}", output.command);
    for word in words {
        assert!(
            said.to_lowercase().contains(&word.to_lowercase()),
            "`{}` does not say '{word}': {said}",
            output.command
        );
    }
    assert!(!said.contains("panicked"), "`{}`: {said}", output.command);
}

/// Runs a daemon that is expected to give up.
fn daemon(lab: &Lab, name: &str, wrapper: &[&str], env: &[(&str, &str)]) -> Output {
    let node = &lab.nodes[0];
    let path = program(name).unwrap().display().to_string();
    let run_dir = lab.dir().join("elsewhere").display().to_string();
    let mut argv: Vec<&str> = wrapper.to_vec();
    argv.extend([path.as_str(), "--run-dir", &run_dir]);
    let (pins, cgroup) = (format!("{}-x", node.pin_root().display()), node.cgroup().display().to_string());
    if name == "felix" {
        argv.extend(["--bpf-pin-root", &pins, "--cgroup", &cgroup]);
    }
    node.netns.exec(&argv).env(node.env()).env(env.iter().copied()).limit(SETTLE).run().unwrap()
}

#[test]
#[ignore = "needs FRR"]
fn documents_that_are_wrong() {
    let lab = Lab::build(Options::default()).unwrap();
    let mut job = Job { lab, report: Default::default(), pools: Default::default() };
    harness::main_job::resources::step(&mut job).unwrap();
    let before = items(&job, "ippool").unwrap().len();
    let good =
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: good\nspec:\n  cidr: 10.9.0.0/24\n---\n";
    let pool = |name: &str, more: &str| {
        format!("apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: {name}\nspec:\n  {more}\n")
    };
    let cases: [(String, &[&str]); 4] = [
        ("kind: IPPool\nmetadata: {\n".into(), &["line"]),
        (pool("typo", "cidr: 10.8.0.0/24\n  blocksize: 26"), &["blocksize"]),
        (pool("overlap", "cidr: 1.1.1.0/25"), &["overlap", "1.1.1.0/25"]),
        (pool("host-bits", "cidr: 10.8.0.1/24"), &["10.8.0.1/24"]),
    ];
    for (document, words) in cases {
        let refused = job.lab.calicoctl_with(&["apply", "-f", "-"], &format!("{good}{document}")).unwrap();
        assert_refused(&refused, words);
        assert_eq!(items(&job, "ippool").unwrap().len(), before, "half of it was applied: {}", refused.text());
    }
}

#[test]
#[ignore = "needs FRR"]
fn a_machine_that_does_not_give_what_is_needed() {
    let mut job = Job::start(Options::default()).unwrap();
    // The port is taken by the node's own bgpd.
    assert_refused(&daemon(&job.lab, "bgpd", &[], &[]), &["179", "in use"]);
    let file = job.lab.dir().join("no-such-directory/x/store.db");
    std::fs::write(job.lab.dir().join("no-such-directory"), "").unwrap();
    let file = file.display().to_string();
    for name in ["felix", "bgpd"] {
        assert_refused(&daemon(&job.lab, name, &[], &[("DATASTORE_TYPE", "mysql")]), &["mysql", "DATASTORE_TYPE"]);
    }
    let asked = job.lab.nodes[0].ctl("calicoctl", &["get", "node"]).env([("SQLITE_PATH", &file)]).run().unwrap();
    assert_refused(&asked, &[&file, "SQLITE_PATH"]);
    for name in ["felix", "bgpd", "tortie-controller"] {
        assert_refused(&daemon(&job.lab, name, &[], &[("SQLITE_PATH", &file)]), &[&file, "SQLITE_PATH"]);
    }
    let nowhere = [("DATASTORE_TYPE", "etcdv3"), ("ETCD_ENDPOINTS", "http://127.0.0.1:1")];
    let asked = job.lab.nodes[0].ctl("calicoctl", &["get", "node"]).env(nowhere).run().unwrap();
    assert_refused(&asked, &["127.0.0.1:1"]);
    assert_refused(&daemon(&job.lab, "felix", &[], &nowhere), &["127.0.0.1:1"]);
    let without = ["setpriv", "--bounding-set", "-bpf,-sys_admin,-perfmon", "--inh-caps", "-bpf,-sys_admin,-perfmon"];
    job.lab.nodes[0].felix.as_mut().unwrap().kill9().unwrap();
    let refused = daemon(&job.lab, "felix", &without, &[]);
    assert_refused(&refused, &["CAP_BPF"]);
}
