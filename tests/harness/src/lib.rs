//! The lab: a rack in namespaces of one machine, with real switches and the real programs, as a library.
//!
//! - [`capability`]: what this machine allows
//! - [`exec`], [`evidence`]: commands with limits; assertions that wait and show what they saw
//! - [`guard`]: everything a lab makes carries its id, and goes with it, also after a crash
//! - [`netns`], [`process`]: where things run
//! - [`switch`]: FRR, BIRD or GoBGP as a leaf
//! - [`cluster`], [`node`], [`pod`]: the topology, workers with felix and bgpd, pods through the CNI protocol
//! - [`traffic`]: servers and clients that count what is lost
//! - [`interop`]: bgpd with other speakers, each scenario a directory of files
//! - [`main_job`]: the seed's network step by step, each a function that tests reuse
//!
//! It refuses to configure anything of ours other than as an operator does: with `calicoctl`, flags and the environment.

pub mod capability;
pub mod cluster;
pub mod evidence;
pub mod exec;
pub mod guard;
pub mod interop;
pub mod main_job;
pub mod netns;
pub mod node;
pub mod pod;
pub mod process;
pub mod switch;
pub mod traffic;
