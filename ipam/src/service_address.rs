//! Addresses of services: out of pools of another kind than IPPool, and from one service to another.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::key::AffinityOwner;
use ipnet::IpNet;
use jiff::SignedDuration;

use crate::allocator::{Error, Ipam, Outcome, Retries, completed_attributes, write_block, write_handle};
use crate::assign::Context;
use crate::attempt::Attempt;
use crate::block::Assignee;
use crate::handle;

impl Ipam {
    /// As [`Self::assign_ip`], for an address of a pool that is no IPPool; where no block holds it, `block` is made. Whether the
    /// pool may give it is the caller's to know.
    ///
    /// # Errors
    /// As [`Self::assign_ip`], but for those about pools; [`crate::block::BlockError::Inconsistent`] where `block` meets another one.
    pub async fn assign_ip_in_block(
        &self,
        ip: IpAddr,
        block: IpNet,
        handle: &str,
        attributes: BTreeMap<String, String>,
        owner: AffinityOwner,
    ) -> Result<IpNet, Error> {
        let pools = self.pools().await?;
        let context = Context::new(self, handle, &attributes, owner).await?;
        let mut retries = Retries::new(self, format!("assign {ip} to {handle}"));
        loop {
            let mut attempt = Attempt::read(&context).await?;
            let net = attempt.take_address(ip, block, &pools).await?;
            match attempt.commit().await? {
                Outcome::Done => return Ok(net),
                Outcome::Retry(error) => retries.again(error).await?,
            }
        }
    }

    /// Gives an address that handle `from` has, as allocation number `sequence`, to handle `to`; at no moment is it free. That `to`
    /// has it already is success.
    ///
    /// # Errors
    /// [`Error::NotTheSame`] where somebody else has it; [`Error::Store`], [`Error::Contention`].
    pub async fn hand_over(
        &self,
        ip: IpAddr,
        from: &str,
        sequence: Option<u64>,
        to: &str,
        attributes: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let pools = self.pools().await?;
        let to = handle::sanitized(to);
        let mut retries = Retries::new(self, format!("hand {ip} over to {to}"));
        loop {
            let not_the_same = |what, expected: String, present: Option<String>| {
                let present = present.unwrap_or_else(|| "nobody".into());
                Error::NotTheSame { ip, what, expected, present }
            };
            let Some(mut block) = self.block_with(ip, &pools).await? else {
                return Err(not_the_same("handle", from.into(), None));
            };
            let holder = block.value.attribute_of(ip).and_then(|a| a.handle_id.clone());
            if holder.as_deref() == Some(to) {
                return Ok(());
            }
            if holder.as_deref() != Some(from) {
                return Err(not_the_same("handle", from.into(), holder));
            }
            let present = block.value.sequence_of(ip);
            if sequence.is_some() && sequence != present {
                let text = |n: Option<u64>| n.map(|n| n.to_string());
                return Err(not_the_same("sequence number", text(sequence).unwrap_or_default(), text(present)));
            }
            let now = self.now();
            let owner =
                block.value.owner().unwrap_or_else(|| AffinityOwner::Virtual(crate::LOAD_BALANCER_OWNER.into()));
            let attributes = completed_attributes(attributes, &owner, now);
            // In one write, so that no cooldown has to pass.
            block.value.release(&[ip], now, SignedDuration::ZERO);
            block.value.assign_address(ip, Assignee { handle: to, attributes: &attributes }, None)?;
            let mut ops = vec![write_block(&block)];
            for id in [from, to] {
                let mut held = self.handle(id).await?;
                handle::set(&mut held.value, block.value.cidr(), block.value.addresses_of(id).len());
                ops.extend(write_handle(id, &held));
            }
            match self.write(ops).await? {
                Outcome::Done => return Ok(()),
                Outcome::Retry(error) => retries.again(error).await?,
            }
        }
    }
}
