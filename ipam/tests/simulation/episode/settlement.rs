//! The end of an episode: what is under way ends, and then what was told is what is stored, and nothing is left over.

use std::collections::BTreeSet;
use std::net::IpAddr;

use datastore::Store;

use super::{Episode, RESYNC, Verdict};
use crate::collector;
use crate::judge::Standing;
use crate::life::{Holder, Life};
use crate::setting::Kind;
use crate::task::Task;

/// A call that takes more steps than this hangs.
const MOST_STEPS_TO_SETTLE: usize = 200_000;
/// Rounds of a collection after which nothing may be left to collect.
const ROUNDS: usize = 12;

impl Episode {
    /// Nothing new begins, and what is under way ends. Then what was told is what is stored, and after everybody who is uncertain has
    /// released, and a collection, nothing is left over.
    pub async fn settle(&mut self) -> Verdict {
        self.log(|_| "settling".into());
        self.is_settling = true;
        self.quiesce().await?;
        self.check_told()?;
        if self.life.is_some() {
            return self.settle_collected().await;
        }
        for handle in self.judge.handles_that_are(Standing::Uncertain) {
            self.complete(Task::Release { handle }).await?;
        }
        let before = self.judge.owners().len();
        let dead = self.judge.handles_that_are(Standing::Gone).into_iter().collect();
        self.complete(Task::Collect { dead }).await?;
        self.figures.collected += (before - self.judge.owners().len()) as u64;
        self.check_told()?;
        if self.judge.owners() != self.judge.told() {
            let (owners, told) = (self.judge.owners(), self.judge.told());
            return Err(format!("after collection {owners:?} are stored, and {told:?} were told"));
        }
        if self.kind == Kind::Ordered {
            self.complete(Task::Repair).await?;
        }
        self.judge.check_all()?;
        let all: Vec<IpAddr> = self.judge.told().keys().copied().collect();
        self.complete(Task::ReleaseAddresses { addresses: all }).await?;
        if self.kind == Kind::Ordered {
            self.complete(Task::Repair).await?;
        }
        self.judge.check_all()?;
        match self.judge.owners().len() {
            0 => Ok(()),
            n => Err(format!("{n} addresses are left after everything was released")),
        }
    }

    /// The same with the collection: half of what is uncertain is released, and the other half nobody stands behind.
    async fn settle_collected(&mut self) -> Verdict {
        // The nodes are all there, or some are not.
        for handle in self.judge.handles_that_are(Standing::Uncertain) {
            if Holder::of(&handle).is_collected() && self.choices.below(2) == 0 {
                self.end(&handle)?;
            } else {
                self.complete(Task::Release { handle }).await?;
            }
        }
        // A node that came back before the collection saw that it was gone has its workloads still.
        let is_back = |h: &&String| self.judge.standing(h) == Some(Standing::Gone);
        let back: BTreeSet<String> = self.judge.owners().values().filter(is_back).cloned().collect();
        for handle in back.iter().filter(|h| Holder::of(h).is_collected()) {
            self.end(handle)?;
        }
        self.release_kept().await?;
        // An endpoint says what its workload was told, and no more what somebody else has released.
        let running: Vec<String> = self.life.iter().flat_map(Life::present).cloned().collect();
        let told: BTreeSet<String> = self.judge.told().values().cloned().chain(running).collect();
        for handle in told {
            let startable = self.life.iter().any(|l| l.is_startable(&handle, self.world.now()));
            if startable {
                self.start_with_told(&handle)?;
            }
        }
        let before = self.judge.owners().len();
        self.collect_all().await?;
        self.figures.collected += (before - self.judge.owners().len()) as u64;
        // One key at a time: what an assignment that met a release has left, no handle named before the repair.
        if self.release_kept().await? {
            self.collect_all().await?;
        }
        self.check_told()?;
        if self.judge.owners() != self.judge.told() {
            let (owners, told) = (self.judge.owners(), self.judge.told());
            return Err(format!("after collection {owners:?} are stored, and {told:?} were told"));
        }
        self.judge.check_all()?;
        self.judge.check_collected()?;
        // Everything goes.
        let told: BTreeSet<String> = self.judge.told().values().cloned().collect();
        for handle in told {
            if Holder::of(&handle).is_collected() && self.choices.below(2) == 0 {
                self.end(&handle)?;
            } else {
                self.complete(Task::Release { handle }).await?;
            }
        }
        // An endpoint is there as well whose addresses somebody else has released, and who has them now.
        let present: Vec<String> = self.life.iter().flat_map(Life::present).cloned().collect();
        present.iter().try_for_each(|handle| self.end(handle))?;
        for name in self.setting.nodes.clone() {
            self.complete(Task::ChangeNode { name, is_there: false }).await?;
        }
        self.collect_all().await?;
        self.judge.check_nothing_left()
    }

    /// Releases what nobody collects; whether there was anything.
    async fn release_kept(&mut self) -> Result<bool, String> {
        // A node that came back has its tunnels' addresses still. What was taken by hand, of a caller that died, comes late.
        let is_kept = |h: &&String| match Holder::of(h) {
            Holder::Tunnel => self.judge.is_at_home(h) && !self.judge.told().values().any(|t| t == *h),
            Holder::ByHand | Holder::Plain => self.judge.standing(h) != Some(Standing::Live),
            Holder::Pod | Holder::Container | Holder::Service => false,
        };
        let kept: BTreeSet<String> = self.judge.owners().values().filter(is_kept).cloned().collect();
        let is_any = !kept.is_empty();
        for handle in kept {
            self.complete(Task::Release { handle }).await?;
        }
        Ok(is_any)
    }

    /// Rounds of the controller, as long as there is something to do.
    async fn collect_all(&mut self) -> Verdict {
        let controller = self.clients.len() - 1;
        let Some(watched) = self.clients[controller].watched.clone() else { return Ok(()) };
        let wait = self.life.as_ref().map(|l| l.grace).unwrap_or_default() + RESYNC;
        let mut idle = 0;
        for _ in 0..ROUNDS {
            if !self.world.memory.has_transactions() {
                self.start(controller, Task::Inspect)?;
                self.quiesce().await?;
            }
            self.start(controller, Task::Sweep)?;
            self.quiesce().await?;
            self.world.pass(wait);
            self.judge.set_time(self.world.now());
            self.give_up()?;
            // A watch that was broken is opened again, and what was written comes.
            for _ in 0..20 {
                self.let_tasks_run().await;
                self.quiesce().await?;
            }
            idle = if collector::is_idle(&watched) { idle + 1 } else { 0 };
            if idle > 2 {
                return Ok(());
            }
        }
        Err(format!("after {ROUNDS} rounds there is still to collect: {}", collector::candidates(&watched)))
    }

    async fn quiesce(&mut self) -> Verdict {
        for _ in 0..MOST_STEPS_TO_SETTLE {
            if self.world.waiting(|_, _| Some(())).is_empty() {
                return match self.clients.iter().position(|c| c.running.is_some()) {
                    None => Ok(()),
                    Some(client) => Err(format!("client {client} waits for nothing and does not end")),
                };
            }
            self.step()?;
            self.let_tasks_run().await;
        }
        Err(format!("not quiet after {MOST_STEPS_TO_SETTLE} steps"))
    }

    /// A call without faults, by itself.
    async fn complete(&mut self, task: Task) -> Verdict {
        self.start(0, task)?;
        self.quiesce().await
    }

    fn check_told(&self) -> Verdict {
        let told = self.judge.told();
        if let Some((ip, handle)) = told.iter().find(|(ip, handle)| self.judge.owners().get(*ip) != Some(*handle)) {
            return Err(format!(
                "{handle} was told that it has {ip}, and the store says {:?}",
                self.judge.owners().get(ip)
            ));
        }
        let live = |handle: &String| self.judge.standing(handle) == Some(Standing::Live);
        let untold = |(ip, handle): &(&IpAddr, &String)| live(handle) && told.get(*ip) != Some(*handle);
        match self.judge.owners().iter().find(untold) {
            Some((ip, handle)) => Err(format!("{handle} has {ip} in the store and was not told")),
            None => Ok(()),
        }
    }
}
