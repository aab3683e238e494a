//! The command line as users see it: the real binary against a store of its own, row by row.

mod apply;
mod bgp;
mod fleet;
mod get;
mod pools;
mod stores;

use fleet::{Fleet, pool};

/// (what is stored, arguments, standard input, exit code, what standard output is, what standard error has)
type Row = (&'static str, &'static [&'static str], String, i32, &'static str, &'static [&'static str]);

#[test]
fn commands_do_what_they_say() {
    let apply: &[&str] = &["apply", "-f", "-"];
    let rows: Vec<Row> = vec![
        (
            "",
            apply,
            pool("a", "10.0.0.0/16") + &pool("b", "10.1.0.0/16"),
            0,
            "Successfully applied 2 'IPPool' resource(s)\n",
            &[],
        ),
        (
            "pool",
            &["apply", "-f", "-"],
            pool("stored", "10.0.0.0/16"),
            0,
            "Successfully applied 1 'IPPool' resource(s)\n",
            &[],
        ),
        ("", &["create", "-f", "-"], pool("a", "10.0.0.0/16"), 0, "Successfully created 1 'IPPool' resource(s)\n", &[]),
        (
            "pool",
            &["create", "-f", "-"],
            pool("stored", "10.0.0.0/16"),
            1,
            "",
            &["resource already exists: IPPool(stored) with error: <nil>; use apply or replace", "nothing was created"],
        ),
        (
            "pool",
            &["create", "--skip-exists", "-f", "-"],
            pool("stored", "10.0.0.0/16"),
            0,
            "Successfully created 1 'IPPool' resource(s)\n",
            &[],
        ),
        (
            "pool",
            &["replace", "-f", "-"],
            pool("stored", "10.0.0.0/16"),
            0,
            "Successfully replaced 1 'IPPool' resource(s)\n",
            &[],
        ),
        (
            "",
            &["replace", "-f", "-"],
            pool("a", "10.0.0.0/16"),
            1,
            "",
            &["resource does not exist: IPPool(a) with error: <nil>; use apply"],
        ),
        (
            "pool",
            &["delete", "-f", "-"],
            pool("stored", "10.0.0.0/16"),
            0,
            "Successfully deleted 1 'IPPool' resource(s)\n",
            &[],
        ),
        (
            "pool",
            &["delete", "ippool", "stored"],
            String::new(),
            0,
            "Successfully deleted 1 'IPPool' resource(s)\n",
            &[],
        ),
        (
            "",
            &["delete", "ippool", "x"],
            String::new(),
            1,
            "",
            &["failed to delete 'IPPool' resource: [resource does not exist: IPPool(x) with error: <nil>]"],
        ),
        ("", &["delete", "ippool", "x", "-s"], String::new(), 0, "Successfully deleted 0 'IPPool' resource(s)\n", &[]),
        (
            "",
            &["validate", "-f", "-"],
            pool("a", "10.0.0.0/16"),
            0,
            "Successfully validated 1 'IPPool' resource(s)\n",
            &[],
        ),
        (
            "",
            &["validate", "-f", "-"],
            pool("a", "10.0.0.0/33"),
            1,
            "",
            &[
                "stdin: document 1 (IPPool a), line 6, column 9: spec.cidr '10.0.0.0/33': error with field CIDR = '10.0.0.0/33'",
                "nothing was validated: 1 error in 1 of 1 document",
            ],
        ),
        (
            "",
            &["validate", "-f", "-"],
            pool("a", "10.0.0.0/33").replace("---", "  nodeSelector: a = b\n  blockSize: '26'\n---"),
            1,
            "",
            &[
                "stdin: document 1 (IPPool a): error with the following fields:\n-  CIDR = '10.0.0.0/33' (Reason: failed to validate Field: CIDR because of Tag: net ); ",
                "; spec.cidr, line 6, column 9\n-  NodeSelector = 'a = b' (Reason: ",
                "\nstdin: document 1 (IPPool a), line 8, column 14: spec.blockSize '26': cannot unmarshal string",
                "nothing was validated: 3 errors in 1 of 1 document",
            ],
        ),
        ("", apply, String::new(), 1, "", &["no resources specified in file stdin"]),
        ("", &["apply", "-f", "missing.yaml"], String::new(), 1, "", &["cannot read missing.yaml: No such file"]),
        (
            "",
            &["get", "ippool", "x"],
            String::new(),
            1,
            "",
            &["failed to get resources: resource does not exist: IPPool(x) with error: <nil>\n"],
        ),
        (
            "",
            &["get", "ipool"],
            String::new(),
            1,
            "",
            &["resource type 'ipool' is not supported; did you mean IPPool?"],
        ),
        ("", &["get", "ippool", "-n", "x"], String::new(), 1, "", &["IPPool is not namespaced"]),
        ("", &["get", "ippool", "-o", "xml"], String::new(), 1, "", &["unrecognized output format 'xml'"]),
        (
            "",
            &["get", "ippool", "-o", "yaml"],
            String::new(),
            0,
            "apiVersion: projectcalico.org/v3\nitems: []\nkind: IPPoolList\nmetadata: {}\n",
            &[],
        ),
        (
            "",
            &["ipam", "configure", "--strictaffinity=true"],
            String::new(),
            0,
            "Successfully set StrictAffinity to: true\n",
            &[],
        ),
        ("", &["ipam", "configure"], String::new(), 1, "", &["at least one configuration option must be specified"]),
        ("", &["ipam", "show", "--ip=10.0.0.1"], String::new(), 0, "10.0.0.1 is not assigned\n", &[]),
        (
            "",
            &["node", "status", "--run-dir", "/nonexistent"],
            String::new(),
            1,
            "",
            &["Calico process is not running.", "/nonexistent/bgpd.sock"],
        ),
        ("", &["nonsense"], String::new(), 1, "", &["unrecognized subcommand"]),
    ];
    for (state, args, stdin, code, stdout, stderr) in rows {
        let fleet = Fleet::new();
        if state == "pool" {
            fleet.apply(&pool("stored", "10.0.0.0/16"));
        }
        let outcome = fleet.run(args, &stdin);
        assert_eq!(outcome.code, code, "{args:?} {}", outcome.stderr);
        assert_eq!(outcome.stdout, stdout, "{args:?} {}", outcome.stderr);
        for want in stderr {
            assert!(outcome.stderr.contains(want), "{args:?}\nwant {want}\ngot {}", outcome.stderr);
        }
        if code == 0 {
            assert_eq!(outcome.stderr, "", "{args:?}");
        }
    }
}
