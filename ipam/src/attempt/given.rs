//! Addresses that a request names.

use std::net::IpAddr;

use api::IpPool;
use api::ip_pool::AllowedUse;
use ipnet::IpNet;

use super::{Attempt, Item, unchanged};
use crate::allocator::{Error, MAX_BYTES_PER_TXN, Versioned, cooldown, in_block};
use crate::assign::{AssignRequest, Context};
use crate::block::{Block, BlockError};
use crate::pool;

impl<'a> Attempt<'a> {
    /// Takes one given address, where no block is yet from a new one, where the request or the pool has it; the address with the mask of
    /// its block, or `None` when the transaction is full. Nothing is to be written when the handle has it already.
    pub(super) async fn take_address(
        &mut self,
        item: &Item<'_>,
        ip: IpAddr,
        request: &AssignRequest,
    ) -> Result<Option<IpNet>, Error> {
        let context = self.context;
        let (cidr, check) = match request.in_block {
            Some(cidr) => (cidr.trunc(), None),
            None => {
                let pool = self.pool_of(ip, request.intended_use)?;
                (pool::block_of(pool, ip).ok_or(Error::NotInPool(ip))?, unchanged(pool))
            }
        };
        let blocks = self.changes.blocks.len();
        let planned = self.changes.blocks.iter_mut().find(|(cidr, _)| cidr.contains(&ip));
        if let Some((cidr, change)) = planned {
            let cidr = *cidr;
            let growth = change.block.value.growth(1, item.assignee());
            if blocks > 1 && self.size + growth > MAX_BYTES_PER_TXN {
                self.is_truncated = true;
                return Ok(None);
            }
            assign_given(&mut change.block.value, ip, item, context)?;
            change.taken.push(ip);
            self.size += growth;
            let count = change.block.value.addresses_of(item.handle).len();
            self.count(item.handle, cidr, count);
            return Ok(Some(in_block(ip, cidr)));
        }
        let is_mine = |block: &Versioned<Block>| {
            block.value.attribute_of(ip).is_some_and(|a| a.handle_id.as_deref() == Some(item.handle))
        };
        let held = match self.holding(ip, cidr).await? {
            // What is followed may be a moment old, and nothing is written that would tell.
            Some(block) if self.snapshot.is_some() && is_mine(&block) => {
                let at = block.value.cidr();
                self.give_back(block);
                match context.ipam.reading().block(at).await? {
                    Some(block) if is_mine(&block) => return Ok(Some(in_block(ip, at))),
                    stored => stored,
                }
            }
            held => held,
        };
        let mut block = match held {
            Some(block) => block,
            None => {
                if self.ask(|index| index.overlaps(&cidr)) {
                    let reason = "a smaller block of an older pool lies in it".into();
                    return Err(BlockError::Inconsistent { cidr, reason }.into());
                }
                self.changes.checks.extend(check);
                self.claimed.push(cidr);
                self.new_block(cidr)?
            }
        };
        let net = in_block(ip, block.value.cidr());
        if is_mine(&block) {
            return Ok(Some(net));
        }
        if self.is_without_room(block.value.stored_len() + block.value.growth(1, item.assignee())) {
            self.give_back(block);
            return Ok(None);
        }
        block.value.thaw(context.now, cooldown(&context.config));
        assign_given(&mut block.value, ip, item, context)?;
        self.record(item, block, vec![ip]);
        Ok(Some(net))
    }

    /// The enabled pool that may give an address for a use.
    fn pool_of(&self, ip: IpAddr, wanted: AllowedUse) -> Result<&'a IpPool, Error> {
        let mut enabled = self.context.pools.iter().filter(|p| !p.body.spec.disabled);
        let pool = enabled.find(|p| p.body.spec.cidr.contains(&ip)).ok_or(Error::NotInPool(ip))?;
        if pool.body.spec.allows(wanted) {
            return Ok(pool);
        }
        Err(Error::NotForUse { ip, pool: pool.metadata.name.clone(), wanted })
    }

    /// The block that holds an address: that of today's pools, or an older one of another size.
    async fn holding(&mut self, ip: IpAddr, likely: IpNet) -> Result<Option<Versioned<Block>>, Error> {
        if self.snapshot.is_none()
            && let Some(block) = self.context.ipam.block(likely).await?
        {
            return Ok(Some(block));
        }
        self.need_keys().await?;
        match self.ask(|index| index.holding(ip)) {
            Some(cidr) => self.context.ipam.block(cidr).await,
            None => Ok(None),
        }
    }
}

/// Takes one given address of a block, if the block has bytes for it.
fn assign_given(block: &mut Block, ip: IpAddr, item: &Item<'_>, context: &Context<'_>) -> Result<(), BlockError> {
    let to = item.assignee();
    // Who asks for an address of somebody else's is told so.
    if block.attribute_of(ip).is_none() && block.fitting(1, to) == 0 {
        let (cidr, size, more) = (block.cidr(), block.stored_len(), block.growth(1, to));
        return Err(BlockError::NoBytesLeft { ip, cidr, size, more });
    }
    block.assign_address(ip, to, context.strict())
}
