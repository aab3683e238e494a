//! A store of documents, in which actions are done as the controller does them: what a plan leads to, without a controller.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::Key;
use api::key::{AffinityOwner, LOAD_BALANCER_OWNER};
use datastore::KeyValue;
use datastore::watcher::Update;
use ipam::block::{Assignee, Block};
use ipam::pool::Reservations;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::*;

pub struct World {
    pub objects: BTreeMap<Key, Value>,
    pub state: State,
    pub settings: Settings,
    revision: u64,
}

fn start() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

impl World {
    pub fn new(documents: &[Value]) -> Self {
        let mut world = Self { objects: BTreeMap::new(), state: State::default(), settings: settings(), revision: 0 };
        documents.iter().for_each(|document| world.put(document.clone()));
        world.state.apply(Update::InSync);
        world
    }

    pub fn put(&mut self, mut document: Value) {
        let key = key_of(&document);
        if let Key::Resource { .. } = key
            && let Some(metadata) = document["metadata"].as_object_mut()
        {
            metadata.remove("resourceVersion");
        }
        if self.objects.get(&key) == Some(&document) {
            return;
        }
        self.revision += 1;
        let value = document.to_string().into_bytes();
        self.objects.insert(key.clone(), document);
        self.state.apply(Update::Put(KeyValue { key, value, mod_revision: self.revision }));
    }

    pub fn delete(&mut self, key: &Key) {
        if self.objects.remove(key).is_some() {
            self.state.apply(Update::Delete(key.clone()));
        }
    }

    pub fn change(&mut self, key: &Key, change: impl FnOnce(&mut Value)) {
        let Some(mut document) = self.objects.get(key).cloned() else { return };
        change(&mut document);
        self.put(document);
    }

    /// Plans and does until nothing is left to do; how many actions that took.
    pub fn settle(&mut self) -> usize {
        let mut done = 0;
        for _ in 0..20 {
            let actions = plan(&mut self.state, &self.settings, NOW);
            if actions.is_empty() {
                return done;
            }
            done += actions.len();
            actions.into_iter().for_each(|action| self.execute(action));
        }
        panic!("there is no end: {:?}", plan(&mut self.state, &self.settings, NOW));
    }

    fn execute(&mut self, action: Action) {
        match action {
            Action::UpdateService(service) => self.put(serde_json::to_value(*service).unwrap()),
            Action::CreateSlice(slice) | Action::UpdateSlice(slice) => self.put(serde_json::to_value(*slice).unwrap()),
            Action::DeleteSlice(slice) => self.delete(&slice.key()),
            Action::UpdateWorkload(workload) => self.put(serde_json::to_value(*workload).unwrap()),
            Action::UpdatePool(pool) => self.put(serde_json::to_value(*pool).unwrap()),
            Action::DeleteOfNode { key, .. } => self.delete(&key),
            Action::AssignAddress(assign) => self.assign(&assign),
            Action::ReleaseAddresses { handle, addresses, .. } | Action::ReleaseHandle { handle, addresses, .. } => {
                for (ip, sequence) in addresses {
                    self.with_block_of(ip, |block| {
                        assert_eq!(
                            (holder(block, ip).as_deref(), block.sequence_of(ip)),
                            (Some(handle.as_str()), sequence)
                        );
                        block.release(&[ip], start(), SignedDuration::ZERO);
                    });
                }
            }
            Action::HandOver { address, from, sequence, service, handle, pool } => {
                self.with_block_of(address, |block| {
                    assert_eq!((holder(block, address), block.sequence_of(address)), (Some(from), sequence));
                    block.release(&[address], start(), SignedDuration::ZERO);
                    let to = Assignee { handle: &handle, attributes: &service_attributes(&service, pool.as_deref()) };
                    block.assign_address(address, to, None).unwrap();
                })
            }
        }
    }

    fn assign(&mut self, assign: &AssignAddress) {
        let attributes = assign.attributes();
        let to = Assignee { handle: &assign.handle, attributes: &attributes };
        if let Wish::Must(ip) | Wish::Prefer(ip) = assign.wish {
            let length = if ip.is_ipv4() { 30 } else { 126 };
            let cidr =
                assign.from.as_ref().map_or_else(|| IpNet::new(ip, length).unwrap().trunc(), |(block, _)| *block);
            let taken = self.block_of(ip).is_some_and(|b| holder(&b, ip).is_some_and(|h| h != assign.handle));
            if !taken {
                self.with_block(ip, cidr, |block| drop(block.assign_address(ip, to, None)));
                return;
            }
        }
        // What the handle has counts, as [`ipam::Ipam::ensure_assigned`] counts it.
        let has = self.allocated().into_iter().filter(|(ip, h)| *h == assign.handle && family_of(*ip) == assign.family);
        if has.count() > assign.besides {
            return;
        }
        let readable = self.state.pools.iter().filter(|(name, _)| !self.state.is_unreadable(api::Kind::IpPool, name));
        let pools = readable.map(|(_, p)| p.body.spec.clone());
        let is_meant = |cidr: &IpNet| assign.pools.is_empty() || assign.pools.contains(cidr);
        let usable: Vec<IpNet> = pools
            .filter(|s| !s.disabled && s.allows(api::ip_pool::AllowedUse::LoadBalancer))
            .map(|s| s.cidr)
            .filter(|cidr| Family::of(cidr) == assign.family && is_meant(cidr))
            .collect();
        for pool in usable {
            let length = if assign.family == Family::V4 { 30 } else { 126 };
            for cidr in pool.subnets(length).unwrap() {
                let mut found = vec![];
                self.with_block(cidr.network(), cidr, |block| {
                    found = block.assign(1, to, &Reservations::default(), None).unwrap();
                });
                if !found.is_empty() {
                    self.state.failures.remove(&assign.service);
                    return;
                }
            }
        }
        self.state.failures.insert(assign.service.clone(), "full".into());
    }

    fn block_of(&self, ip: IpAddr) -> Option<Block> {
        self.objects.iter().find_map(|(key, value)| match key {
            Key::IpamBlock(cidr) if cidr.contains(&ip) => {
                Some(Block::from_stored(serde_json::from_value(value.clone()).unwrap()).unwrap())
            }
            _ => None,
        })
    }

    fn with_block_of(&mut self, ip: IpAddr, change: impl FnOnce(&mut Block)) {
        let cidr = self.block_of(ip).expect("the address is in a block").cidr();
        self.with_block(ip, cidr, change);
    }

    fn with_block(&mut self, ip: IpAddr, cidr: IpNet, change: impl FnOnce(&mut Block)) {
        let owner = AffinityOwner::Virtual(LOAD_BALANCER_OWNER.into());
        let mut block = self.block_of(ip).unwrap_or_else(|| {
            let meets = |other: &IpNet| other.contains(&cidr) || cidr.contains(other);
            let overlaps = self.objects.keys().any(|k| matches!(k, Key::IpamBlock(other) if meets(other)));
            assert!(!overlaps, "{cidr} meets another block");
            Block::new(cidr, &owner, start()).unwrap()
        });
        change(&mut block);
        if block.allocated().next().is_none() {
            self.delete(&Key::IpamBlock(block.cidr()));
        } else {
            self.put(serde_json::to_value(block.stored()).unwrap());
        }
    }

    /// The addresses in a service's status.
    pub fn ingress(&self, namespace: &str, name: &str) -> Vec<String> {
        let service = &self.objects[&Key::resource(api::Kind::Service, Some(namespace), name)];
        let entries = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        entries.iter().map(|e| e["ip"].as_str().unwrap().to_string()).collect()
    }

    /// Reason and message of what a service did not get.
    pub fn problem(&self, name: &str) -> Option<(String, String)> {
        let service = &self.objects[&Key::resource(api::Kind::Service, Some("test"), name)];
        let condition = service["status"]["conditions"].as_array()?.first()?.clone();
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_string();
        Some((text("reason"), text("message")))
    }

    /// Every address that is taken, with its handle.
    pub fn allocated(&self) -> BTreeMap<IpAddr, String> {
        let blocks = self.objects.iter().filter(|(key, _)| matches!(key, Key::IpamBlock(_)));
        let blocks = blocks.map(|(_, v)| Block::from_stored(serde_json::from_value(v.clone()).unwrap()).unwrap());
        blocks
            .flat_map(|b| b.allocated().map(|(ip, a)| (ip, a.handle_id.clone().unwrap())).collect::<Vec<_>>())
            .collect()
    }
}

fn holder(block: &Block, ip: IpAddr) -> Option<String> {
    block.attribute_of(ip)?.handle_id.clone()
}

/// The key of a document.
pub fn key_of(document: &Value) -> Key {
    if document.get("cidr").is_some() {
        return Key::IpamBlock(document["cidr"].as_str().unwrap().parse().unwrap());
    }
    let kind = api::Kind::from_document(document["kind"].as_str().unwrap()).unwrap();
    let metadata = &document["metadata"];
    Key::resource(kind, metadata["namespace"].as_str(), metadata["name"].as_str().unwrap())
}
