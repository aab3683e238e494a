//! The main job, whole, in every variant.

use harness::cluster::{Options, Store};
use harness::main_job;
use harness::switch::Tor;

fn runs(options: Options) {
    let lab = main_job::run(options).unwrap_or_else(|error| panic!("{error:#}"));
    drop(lab);
}

#[test]
#[ignore = "needs FRR"]
fn frr() {
    runs(Options::default());
}

#[test]
#[ignore = "needs BIRD"]
fn bird() {
    runs(Options { tor: Tor::Bird, ..Options::default() });
}

#[test]
#[ignore = "needs GoBGP"]
fn gobgp() {
    runs(Options { tor: Tor::Gobgp, ..Options::default() });
}

#[test]
#[ignore = "needs FRR"]
fn etcd() {
    runs(Options { store: Store::Etcd, ..Options::default() });
}

#[test]
#[ignore = "needs FRR"]
fn ebgp() {
    runs(Options { ebgp: true, ..Options::default() });
}
