//! Address management: pools, blocks, affinities and handles, as Calico keeps them in the store.
//!
//! An allocation is one transaction over the block, its owner's affinity and the handle, so that no crash leaves one without the
//! others, and no reader sees a claim that is half made. Every write is conditional on what was read; a lost race is read again
//! and retried. The crate decides which address; it knows nothing of interfaces and routes.
//!
//! - [`block`]: the arithmetic of one block (pure)
//! - [`pool`]: which pools serve a request, and the order in which their blocks are tried (pure)
//! - [`handle`]: how many addresses a handle has in which block, and how handles are named (pure)
//! - `index`: what is known of all blocks (pure); `snapshot`: the store followed in memory
//! - [`gc`]: what nobody needs any more (pure); [`collect`]: its release
//! - [`check`]: whether what is stored is true, and what mends it (pure)
//! - [`allocator`]: [`Ipam`], the compare-and-swap loop around them; [`assign`] (with `attempt`: one reading, one transaction) and
//!   [`release`]: its two directions; [`affinity`]: whose a block is, taken back
//! - [`lock`]: nothing changes while the datastore is locked
//! - `changes`: what one decision writes, as a transaction; [`ordered`]: the same where the store has none, and repair
//! - [`queue`]: gathers what arrives while a transaction is under way; [`wire`]: what passes on felix's socket
//! - [`plan`]: what a choice of pools and block sizes will cost (pure)
//! - [`service_address`]: addresses of services that no IPPool holds, and their handing over
//! - [`environment`]: the time and randomness that it takes from outside

pub mod affinity;
pub mod allocator;
pub mod assign;
mod attempt;
pub mod block;
mod changes;
pub mod check;
pub mod collect;
pub mod environment;
pub mod gc;
pub mod handle;
mod index;
pub mod lock;
pub mod ordered;
pub mod plan;
pub mod pool;
pub mod queue;
pub mod release;
pub mod service_address;
mod snapshot;
pub mod wire;

pub use allocator::{DEFAULT_MAX_BLOCKS_PER_HOST, Error, IpInfo, Ipam};
pub use api::ip_pool::AllowedUse;
pub use api::ipam::{AllocationBlock, IpamConfig};
pub use api::key::{AffinityOwner, LOAD_BALANCER_OWNER};
pub use assign::{AssignRequest, Assignment};
pub use queue::Queue;
pub use release::ReleaseRequest;
pub use snapshot::followed;
