//! The calls that clients make, on the real allocator.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use api::meta::WithSpec;
use api::{Key, Kind, Metadata, Node, NodeSpec};
use datastore::typed;
use ipam::block::{Block, BlockError};
use ipam::ordered::Suspicions;
use ipam::release::ReleaseRequest;
use ipam::{AffinityOwner, AssignRequest, Assignment, Error, Ipam, IpamConfig, LOAD_BALANCER_OWNER};
use ipnet::IpNet;

use crate::collector;
use crate::episode::is_of_the_store;
use crate::life::{self, Holder};
use crate::setting::Pool;
use crate::world::ClientStore;

/// A call.
#[derive(Clone, Debug)]
pub enum Task {
    /// A workload comes. Repeated, it gets what it has.
    Assign {
        handle: String,
        v4: usize,
        v6: usize,
        pools: Vec<IpNet>,
        is_repeated: bool,
    },
    /// Several come to a node at once.
    AssignMany {
        handles: Vec<String>,
        amount: (usize, usize),
        is_repeated: bool,
    },
    /// It wants this address; of a pool that is no IPPool, in this block.
    Take {
        handle: String,
        ip: IpAddr,
        block: Option<IpNet>,
    },
    /// A service leaves an address to another.
    HandOver {
        ip: IpAddr,
        sequence: Option<u64>,
        from: String,
        to: String,
    },
    /// It goes.
    Release {
        handle: String,
    },
    /// An operator releases addresses, whoever has them.
    ReleaseAddresses {
        addresses: Vec<IpAddr>,
    },
    /// What handles have that are known to be dead goes.
    Collect {
        dead: BTreeSet<String>,
    },
    Configure(IpamConfig),
    ChangePool {
        pool: Pool,
        is_disabled: bool,
        selects: bool,
    },
    ChangeNode {
        name: String,
        is_there: bool,
    },
    /// What was cut off is repaired.
    Repair,
    /// A controller releases what is due to be collected.
    Sweep,
    /// It looks for what was cut off.
    Inspect,
    /// A node gives up its blocks.
    ReleaseHost {
        name: String,
        must_be_empty: bool,
    },
    /// The blocks of a pool are taken from whoever has them.
    ReleasePool {
        cidr: IpNet,
    },
}

/// What it returned.
#[derive(Debug)]
pub enum Done {
    Assigned(Result<Assignment, Error>),
    AssignedMany(Vec<Result<Assignment, Error>>),
    Taken(Result<IpNet, Error>),
    /// What was released, or where addresses were asked for, what was not allocated.
    Released(Result<Vec<IpAddr>, Error>),
    Plain(Result<(), Error>),
}

impl Done {
    pub fn error(&self) -> Option<&Error> {
        match self {
            Self::Assigned(result) => result.as_ref().err(),
            Self::AssignedMany(_) => None,
            Self::Taken(result) => result.as_ref().err(),
            Self::Released(result) => result.as_ref().err(),
            Self::Plain(result) => result.as_ref().err(),
        }
    }
}

impl Task {
    /// The handles that the call is about.
    pub fn handles(&self) -> &[String] {
        match self {
            Self::Assign { handle, .. } | Self::Take { handle, .. } | Self::Release { handle } => {
                std::slice::from_ref(handle)
            }
            Self::AssignMany { handles, .. } => handles,
            Self::HandOver { to, .. } => std::slice::from_ref(to),
            _ => &[],
        }
    }

    /// Whether the call may fail with this error, in a world where the store fails and others change things.
    pub fn may_fail_with(&self, error: &Error) -> bool {
        match (self, error) {
            (_, error) if is_of_the_store(error) => true,
            (Self::Assign { .. } | Self::AssignMany { .. }, Error::Pool(_) | Error::NoNode(_)) => true,
            (Self::Take { .. }, Error::NotInPool(_) | Error::NoNode(_)) => true,
            (Self::HandOver { .. }, Error::NotTheSame { .. }) => true,
            (Self::Collect { .. }, Error::NotTheSame { .. }) => true,
            (Self::ReleaseHost { must_be_empty: true, .. }, Error::NotEmpty(_)) => true,
            (Self::Take { .. }, Error::Block(BlockError::AlreadyAssigned(_) | BlockError::NotOwner { .. })) => true,
            _ => false,
        }
    }

    /// Makes the call.
    pub fn run(
        self,
        ipam: Ipam,
        store: Arc<ClientStore>,
        node: String,
        watched: Option<collector::Shared>,
    ) -> Pin<Box<dyn Future<Output = Done>>> {
        Box::pin(async move {
            match self {
                Self::Assign { handle, v4, v6, pools, is_repeated } => {
                    let request = request(&node, handle, v4, v6, &pools);
                    Done::Assigned(match is_repeated {
                        true => ipam.ensure_assigned(&request).await,
                        false => ipam.auto_assign(&request).await,
                    })
                }
                Self::AssignMany { handles, amount: (v4, v6), is_repeated } => {
                    let one =
                        |handle| AssignRequest { counts_existing: is_repeated, ..request(&node, handle, v4, v6, &[]) };
                    let requests: Vec<AssignRequest> = handles.into_iter().map(one).collect();
                    Done::AssignedMany(ipam.assign_many(&requests).await)
                }
                Self::Repair => Done::Plain(repair(&ipam).await),
                Self::Take { handle, ip, block } => {
                    let (attributes, owner) = (life::attributes(&handle, &node), owner(&handle, &node));
                    Done::Taken(match block {
                        Some(block) => ipam.assign_ip_in_block(ip, block, &handle, attributes, owner).await,
                        None => ipam.assign_ip(ip, &handle, attributes, owner).await,
                    })
                }
                Self::HandOver { ip, sequence, from, to } => {
                    let attributes = life::attributes(&to, &node);
                    Done::Plain(ipam.hand_over(ip, &from, sequence, &to, &attributes).await)
                }
                Self::Sweep => Done::Plain(match watched {
                    Some(watched) => collector::collect(watched, store, ipam).await,
                    None => Ok(()),
                }),
                Self::Inspect => Done::Plain(match watched {
                    Some(watched) => collector::repair(watched, ipam).await,
                    None => Ok(()),
                }),
                Self::Release { handle } => Done::Released(ipam.release_by_handle(&handle).await),
                Self::ReleaseAddresses { addresses } => {
                    let requests: Vec<ReleaseRequest> = addresses.into_iter().map(Into::into).collect();
                    Done::Released(ipam.release_ips(&requests).await)
                }
                Self::Collect { dead } => Done::Plain(collect(&ipam, &dead).await),
                Self::Configure(config) => Done::Plain(ipam.set_config(config).await),
                Self::ChangePool { pool, is_disabled, selects } => {
                    let mut resource = pool.resource();
                    resource.body.spec.disabled = is_disabled;
                    resource.body.spec.node_selector = Some(if selects { "all()" } else { "!all()" }.into());
                    Done::Plain(typed::apply(store.as_ref(), &resource).await.map(drop).map_err(Error::from))
                }
                Self::ReleaseHost { name, must_be_empty } => {
                    let owner = AffinityOwner::Host(name);
                    Done::Plain(ipam.release_host_affinities(&owner, must_be_empty).await.map(drop))
                }
                Self::ReleasePool { cidr } => Done::Plain(ipam.release_pool_affinities(cidr).await.map(drop)),
                Self::ChangeNode { name, is_there } => Done::Plain(change_node(&store, &name, is_there).await),
            }
        })
    }
}

fn request(node: &str, handle: String, v4: usize, v6: usize, pools: &[IpNet]) -> AssignRequest {
    let of_family = |is_v6: bool| pools.iter().copied().filter(|p| p.addr().is_ipv6() == is_v6).collect();
    AssignRequest {
        num_v4: v4,
        num_v6: v6,
        pools_v4: of_family(false),
        pools_v6: of_family(true),
        attributes: life::attributes(&handle, node),
        ..AssignRequest::new(owner(&handle, node), handle)
    }
}

/// Whose blocks a handle's addresses are taken from.
fn owner(handle: &str, node: &str) -> AffinityOwner {
    match Holder::of(handle) {
        Holder::Service => AffinityOwner::Virtual(LOAD_BALANCER_OWNER.into()),
        _ => AffinityOwner::Host(node.into()),
    }
}

/// What is seen twice, with nobody at work, was cut off.
async fn repair(ipam: &Ipam) -> Result<(), Error> {
    let mut seen = Suspicions::default();
    ipam.repair(&mut seen).await?;
    while !ipam.repair(&mut seen).await?.is_empty() {}
    Ok(())
}

/// Releases what the blocks say these handles have, as long as it is still theirs.
async fn collect(ipam: &Ipam, dead: &BTreeSet<String>) -> Result<(), Error> {
    let mut requests = vec![];
    for stored in ipam.blocks().await? {
        let Ok(block) = Block::from_stored(stored) else { continue };
        for (address, attribute) in block.allocated() {
            if let Some(handle) = attribute.handle_id.clone().filter(|h| dead.contains(h)) {
                let sequence_number = block.sequence_of(address);
                requests.push(ReleaseRequest { address, handle: Some(handle), sequence_number });
            }
        }
    }
    ipam.release_ips(&requests).await.map(drop)
}

async fn change_node(store: &ClientStore, name: &str, is_there: bool) -> Result<(), Error> {
    if is_there {
        let node = Node::new(Metadata::named(name), WithSpec { spec: NodeSpec::default(), status: None });
        typed::apply(store, &node).await?;
    } else {
        typed::delete(store, &Key::resource(Kind::Node, None, name)).await?;
    }
    Ok(())
}
