//! Which store, and stores that are away, damaged or moved.

use crate::fleet::{Fleet, pool};

#[test]
fn a_store_that_cannot_be_reached_is_one_clear_line() {
    let fleet = Fleet::new();
    std::fs::create_dir(fleet.dir.path().join("store.db")).unwrap();
    let outcome = fleet.run(&["apply", "-f", "calico-bgp/v3"], "");
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""));
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("store.db"), "{}", outcome.stderr);
}

#[test]
fn calicos_configuration_file_says_which_store() {
    let fleet = Fleet::new();
    let (file, other) = (fleet.dir.path().join("calicoctl.cfg"), fleet.dir.path().join("other.db"));
    let run = |spec: &str| {
        let head = "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\nspec:\n";
        std::fs::write(&file, format!("{head}{spec}")).unwrap();
        fleet.run(&["get", "ippools", "--config", file.to_str().unwrap()], "")
    };
    fleet.apply(&pool("a", "10.0.0.0/24"));
    // Another store than the environment's.
    let outcome = run(&format!("  datastoreType: sqlite\n  sqlitePath: {}\n", other.display()));
    assert_eq!((outcome.code, outcome.stdout.contains("10.0.0.0/24")), (0, false), "{}", outcome.stderr);
    let rows = [
        ("  etcdEndpoint: x\n", "calicoctl.cfg: spec.etcdEndpoint is unknown; valid are datastoreType"),
        ("  etcdEndpoints: https://127.0.0.1:1\n  etcdCACert: none\n", "spec.etcdCACert: holds no PEM certificate"),
        ("  etcdEndpoints: [\n", "calicoctl.cfg: line "),
    ];
    for (spec, text) in rows {
        let outcome = run(spec);
        assert_eq!(outcome.code, 1);
        assert!(outcome.stderr.contains(text), "want {text}\ngot {}", outcome.stderr);
    }
    let outcome = fleet.run(&["get", "ippools", "-c", "/nonexistent.cfg"], "");
    assert!(outcome.stderr.contains("/nonexistent.cfg: cannot be read"), "{}", outcome.stderr);
}

#[test]
#[ignore = "needs etcd"]
fn etcd_takes_the_same_and_says_when_it_is_gone() {
    let mut fleet = Fleet::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let etcd = runtime.block_on(etcd_server::Etcd::start());
    fleet.env = etcd.environment().map(|(name, value)| (name.to_string(), value)).into();
    let outcome = fleet.run(&["apply", "-f", "calico-bgp/v3", "-f", "nodes.yaml", "-f", "services"], "");
    assert_eq!(outcome.stdout, "Successfully applied 16 resource(s)\n", "{}", outcome.stderr);
    assert!(fleet.get(&["ippool"]).contains("ippool-test-0   1.1.1.0/24      !all()     \n"));
    let many: String = (0..300).map(|i| pool(&format!("p{i}"), &format!("10.{}.{}.0/24", i / 256, i % 256))).collect();
    assert_eq!(fleet.apply(&many), "Successfully applied 300 'IPPool' resource(s)\n");
    drop(etcd);
    let outcome = fleet.run(&["get", "ippool"], "");
    assert_eq!((outcome.code, outcome.stderr.lines().count()), (1, 1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("127.0.0.1"), "{}", outcome.stderr);
}

/// A backup is taken, the store is damaged, the check says so and the way back works.
#[test]
fn the_embedded_store_is_checked_backed_up_and_restored() {
    let fleet = Fleet::new();
    fleet.apply(&pool("kept", "10.0.0.0/16"));
    let sqlite = |args: &[&str]| fleet.run(&[&["datastore", "sqlite"], args].concat(), "");
    let checked = sqlite(&["check"]);
    assert_eq!((checked.code, checked.stderr.as_str()), (0, ""));
    assert!(checked.stdout.contains("Objects:   1\n") && checked.stdout.ends_with("No problem was found.\n"));
    let backup = fleet.dir.path().join("backup.db");
    let backup = backup.to_str().unwrap();
    let made = sqlite(&["backup", backup]);
    assert_eq!((made.code, made.stderr.as_str()), (0, ""));
    assert!(made.stdout.ends_with("The backup is complete.\n"), "{}", made.stdout);
    let again = sqlite(&["backup", backup]);
    assert!(again.code == 1 && again.stderr.contains("exists"), "{}", again.stderr);

    fleet.apply(&pool("added", "10.1.0.0/16"));
    let restored = sqlite(&["restore", backup]);
    assert_eq!((restored.code, restored.stderr.as_str()), (0, ""));
    assert!(fleet.get(&["ippool"]).contains("kept") && !fleet.get(&["ippool"]).contains("added"));
    assert_eq!(sqlite(&["compact"]).code, 0);

    let store = fleet.dir.path().join("store.db");
    let mut bytes = std::fs::read(&store).unwrap();
    let page = 4096;
    bytes[page..page + 24].fill(0xA5);
    std::fs::write(&store, &bytes).unwrap();
    let checked = sqlite(&["check"]);
    assert!(checked.code == 1 && checked.stdout.contains("Problem:"), "{}{}", checked.stdout, checked.stderr);
    assert!(checked.stderr.contains("restore BACKUP"), "{}", checked.stderr);
    let restored = sqlite(&["restore", backup]);
    assert_eq!((restored.code, restored.stderr.as_str()), (0, ""));
    assert!(restored.stdout.contains("store.db.damaged"), "{}", restored.stdout);
    assert!(fleet.get(&["ippool"]).contains("kept"));
}
