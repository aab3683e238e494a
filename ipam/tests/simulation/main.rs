//! A deterministic simulation of many clients of the allocator over one store: any interleaving of their store operations, crashes
//! between any two of them, errors, and outcomes that are unknown, come true, or come true later ([`world`]). A model that knows what
//! each caller was told is compared with the store after every step ([`judge`]).
//!
//! A run is made of episodes, each from a seed of its own. A failure prints the seed and a schedule that was cut as short as it could be.
//!
//!     SIM_OPERATIONS=1000000 cargo test --release -p ipam --test simulation              # longer
//!     SEED=42 cargo test -p ipam --test simulation -- clients_that_follow_the_store      # one episode again

mod choices;
mod collector;
mod episode;
mod judge;
mod life;
mod setting;
mod task;
mod world;

use std::time::Duration;

use choices::Choices;
use episode::{Failure, Figures};
use setting::Kind;

/// Calls of one episode.
const EPISODE: u64 = 300;
/// What may be spent on cutting a failure shorter.
const SHRINKING: Duration = Duration::from_secs(20);
/// Lines of a trace that are shown where no one seed was asked for.
const SHOWN: usize = 300;

#[test]
fn clients_of_a_store_with_transactions() {
    simulate(Kind::Transactions, 20_000);
}

#[test]
fn clients_that_follow_the_store() {
    simulate(Kind::Following, 3_000);
}

#[test]
fn clients_of_a_store_without_transactions() {
    simulate(Kind::Ordered, 6_000);
}

#[test]
fn what_is_leaked_is_collected() {
    simulate(Kind::Collected, 1_200);
}

#[test]
fn what_is_leaked_is_collected_without_transactions() {
    simulate(Kind::CollectedOrdered, 1_200);
}

#[test]
fn clients_of_a_store_that_reads_the_past() {
    simulate(Kind::Stale, 1_200);
}

/// A write without an answer, repeated into an outage; an address released and taken again in one call; a handle that counts fewer than
/// before and gets one; an address of an allocation without an answer, released before that was read back; blocks of nobody in which
/// addresses cool down; a handle taken back that an earlier attempt had written alike; an affinity deleted for a block that had been
/// made meanwhile; an affinity that was to go, and whose block was made in the same transaction; an address released and taken again
/// for a call that had got it before; a handle to which another process had given more; one address given to a handle whose others were
/// not known; an address that a request had taken itself, and read the past of; an address that a handle got anew while its release had
/// no answer; one taken by hand, after whoever took it had died; a block that was claimed in vain and followed with its new owner; an
/// endpoint whose address somebody else has; an endpoint that came and went between two observations; a release of what another had
/// released, which was followed a moment late; a pod that was there before the collector saw it; an address whose handle was not there, in
/// a read of the past; a release by a handle that was followed a moment late; an address that was asked for, and the handle had had.
#[test]
fn seeds_that_failed() {
    let ordered = [9, 10, 201, 203, 684].map(|seed| (Kind::Ordered, seed));
    let others = [
        (Kind::Following, 4),
        (Kind::Following, 7),
        (Kind::Following, 89),
        (Kind::Following, 97),
        (Kind::Following, 138),
        (Kind::Following, 151),
        (Kind::Collected, 2),
        (Kind::Collected, 40),
        (Kind::Collected, 64),
        (Kind::Collected, 252),
        (Kind::CollectedOrdered, 2),
        (Kind::CollectedOrdered, 12),
        (Kind::CollectedOrdered, 15),
        (Kind::CollectedOrdered, 32),
        (Kind::CollectedOrdered, 35),
        (Kind::CollectedOrdered, 90),
        (Kind::CollectedOrdered, 153),
        (Kind::CollectedOrdered, 170),
        (Kind::Stale, 8),
        (Kind::Stale, 24),
        (Kind::Stale, 42),
        (Kind::Stale, 52),
        (Kind::Stale, 71),
        (Kind::Stale, 83),
        (Kind::Stale, 152),
        (Kind::Stale, 165),
    ];
    for (kind, seed) in ordered.into_iter().chain(others) {
        if let Err(failure) = run(Choices::from_seed(seed), kind, false) {
            panic!("{}", report(seed, kind, failure));
        }
    }
}

#[test]
fn a_seed_always_gives_the_same_history() {
    for kind in Kind::ALL {
        for seed in 1..=3 {
            let figures = || run(Choices::from_seed(seed), kind, false).map_err(|f| f.violation);
            assert_eq!(figures(), figures(), "seed {seed} of {kind:?}");
        }
    }
}

/// Runs episodes until there were enough operations; of `SIM_OPERATIONS` where that is given, and only the one of `SEED` where that is.
fn simulate(kind: Kind, operations: u64) {
    let operations = number("SIM_OPERATIONS").unwrap_or(operations);
    if let Some(seed) = number("SEED") {
        match run(Choices::from_seed(seed), kind, false) {
            Ok(figures) => println!("seed {seed}: {figures:?}"),
            Err(failure) => panic!("{}", report(seed, kind, failure)),
        }
        return;
    }
    let mut total = Figures::default();
    let mut seed = 0;
    while total.operations < operations {
        seed += 1;
        match run(Choices::from_seed(seed), kind, false) {
            Ok(figures) => total.add(&figures),
            Err(failure) => panic!("{}", report(seed, kind, failure)),
        }
    }
    println!("{kind:?}: {seed} seeds, {total:?}");
    assert!(total.crashes > 0 && total.late > 0 && total.unknown > 0 && total.assigned > 0, "{total:?}");
}

fn run(choices: Choices, kind: Kind, traces: bool) -> Result<Figures, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(episode::run(choices, kind, EPISODE, traces))
}

/// What a failure prints: its seed, and the trace of a schedule that fails as well and is shorter.
fn report(seed: u64, kind: Kind, failure: Failure) -> String {
    eprintln!("SEED={seed} (of {kind:?}): {}", failure.violation);
    let length = failure.choices.len();
    // Who repeats one seed looks for its cause: as it was, and all of it.
    let is_whole = number("SEED").is_some();
    let fails = |made| run(Choices::replaying(made), kind, false).err().map(|f| f.choices);
    let shorter = if is_whole { failure.choices } else { choices::shrink(failure.choices, SHRINKING, fails) };
    let again = run(Choices::replaying(shorter.clone()), kind, true).expect_err("a replay fails again");
    let skipped = again.trace.len().saturating_sub(if is_whole { usize::MAX } else { SHOWN });
    format!(
        "{}\n\nSEED={seed} (of {kind:?}) repeats this. {length} choices, cut to {}, after which: {}\n{}{}",
        failure.violation,
        shorter.len(),
        again.violation,
        if skipped > 0 { format!("... {skipped} lines\n") } else { String::new() },
        again.trace[skipped..].join("\n"),
    )
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}
