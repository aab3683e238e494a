//! The datastore: one trait, several stores.
//!
//! Objects are JSON texts under [`api::Key`]s. Every write is a compare-and-swap on the revision of a key; [`Txn`] does it for
//! several keys at once where the store can. Revisions only grow; a watch continues from one without loss or says that it
//! cannot ([`Error::Compacted`]).
//!
//! - [`store`]: the trait, keys and values, transactions, errors
//! - [`sqlite`], [`etcd`], [`kubernetes`]: the embedded store, etcd, the API server; [`memory`]: for tests, fails on demand
//! - [`watcher`]: list and watch as one stream of updates, then in-sync
//! - [`election`]: one leader among processes that share a store
//! - [`typed`]: resources in and out, with metadata filled as Calico does
//! - [`config`]: which store the environment asks for
//! - [`conformance`]: the suite that every store passes

pub mod config;
pub mod conformance;
pub mod election;
pub mod etcd;
pub mod kubernetes;
pub mod memory;
pub mod sqlite;
pub mod store;
pub mod typed;
pub mod watcher;

pub use store::{DynStore, Error, Event, KeyValue, LeaseId, Leases, Listing, Op, Revision, Store, Txn, WatchStream};
