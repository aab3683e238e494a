//! a: a node that runs for long allocates one address at a time, each beside a bare transaction of as many operations with as many
//! octets under the same conditions.

use std::path::Path;

use api::Key;
use datastore::{DynStore, Error, Op, Revision, Txn};

use crate::Row;
use crate::stores::{Kind, Lab};
use crate::times::Times;
use crate::together::{node, prepare, request};

const ROUNDS: usize = 1_200;
/// Addresses that the node has at most: then it releases them.
const HELD: usize = 40;

pub async fn measure(kind: Kind, data: &Path) -> Result<Vec<Row>, String> {
    let lab = Lab::start(kind, data).await?;
    let store = lab.open().await.map_err(|e| e.to_string())?;
    prepare(store.bare(), 1).await?;
    let ipam = ipam::Ipam::new(store.clone() as DynStore).heeding_lock().following([node(0)]);
    ipam.synced().await;
    let (mut ours, mut bare, mut transactions) = (Times::default(), Times::default(), 0);
    let mut twins = Twins { bare: store.bare().clone(), kept: vec![], made: 0 };
    for round in 0..ROUNDS {
        if round % HELD == 0 {
            for earlier in round.saturating_sub(HELD)..round {
                ipam.release_by_handle(&format!("a.{earlier}")).await.map_err(|e| e.to_string())?;
            }
        }
        let before = store.transactions();
        let asked = request(0, format!("a.{round}"));
        let got = ours.time(ipam.auto_assign(&asked)).await.map_err(|e| e.to_string())?;
        if got.v4.len() != 1 {
            return Err(format!("no address: {got:?}"));
        }
        transactions += store.transactions() - before;
        let txn = twins.of(store.last()).await.map_err(|e| e.to_string())?;
        let revision = bare.time(store.bare().txn(txn.clone())).await.map_err(|e| e.to_string())?;
        twins.written(&txn, revision);
    }
    let name = kind.name();
    let row = |what, unit, value, against, limit| Row { scenario: 'a', store: name, what, unit, value, against, limit };
    let (p50, p99) = (Some(("bare, median", bare.median())), Some(("bare, 99th percentile", bare.quantile(0.99))));
    Ok(vec![
        row("one at a time, median", "us", ours.median(), p50, Some(1.3)),
        row("one at a time, 99th percentile", "us", ours.quantile(0.99), p99, None),
        row("transactions for each", "", transactions as f64 / ROUNDS as f64, None, Some(1.01)),
    ])
}

/// Keys that nobody follows, in place of those of an allocation.
struct Twins {
    bare: DynStore,
    /// Those that are there, with the length of what they stand for.
    kept: Vec<(Key, Revision)>,
    made: usize,
}

impl Twins {
    /// The same operations on other keys, under conditions that hold.
    async fn of(&mut self, txn: Txn) -> Result<Txn, Error> {
        let mut ops = vec![];
        let mut used = 0;
        for op in txn.ops {
            ops.push(match op {
                Op::Create(_, value) | Op::Put(_, value) => {
                    self.made += 1;
                    Op::Create(Key::IpamHandle(format!("made.{}", self.made)), value)
                }
                Op::Update(_, value, _) => {
                    let (key, at) = self.existing(used).await?;
                    used += 1;
                    Op::Update(key, value, at)
                }
                Op::Check(_, 0) => Op::Check(Key::IpamHandle("never".into()), 0),
                Op::Check(..) => {
                    let (key, at) = self.existing(used).await?;
                    used += 1;
                    Op::Check(key, at)
                }
                Op::Delete(..) => {
                    self.made += 1;
                    let key = Key::IpamHandle(format!("made.{}", self.made));
                    let at = self.bare.put(key.clone(), b"{}".to_vec()).await?;
                    Op::Delete(key, Some(at))
                }
            });
        }
        Ok(Txn { ops })
    }

    async fn existing(&mut self, number: usize) -> Result<(Key, Revision), Error> {
        if self.kept.len() <= number {
            let key = Key::IpamHandle(format!("kept.{number}"));
            let at = self.bare.put(key.clone(), b"{}".to_vec()).await?;
            self.kept.push((key, at));
        }
        Ok(self.kept[number].clone())
    }

    fn written(&mut self, txn: &Txn, revision: Revision) {
        for op in &txn.ops {
            if let Op::Update(key, ..) = op
                && let Some(kept) = self.kept.iter_mut().find(|(k, _)| k == key)
            {
                kept.1 = revision;
            }
        }
    }
}
