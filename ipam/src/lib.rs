//! Address management: pools, blocks, affinities and handles, as Calico keeps them in the store.
//!
//! An allocation is one transaction over the block, its owner's affinity and the handle, so that no crash leaves one without the
//! others, and no reader sees a claim that is half made. Every write is conditional on what was read; a lost race is read again
//! and retried. The crate decides which address; it knows nothing of interfaces and routes.
//!
//! - [`block`]: the arithmetic of one block (pure)
//! - [`pool`]: which pools serve a request, and the order in which their blocks are tried (pure)
//! - [`handle`]: how many addresses a handle has in which block, and how handles are named (pure)
//! - [`gc`]: what nobody needs any more (pure)
//! - [`check`]: whether what is stored is true, and what mends it (pure)
//! - [`allocator`]: [`Ipam`], the compare-and-swap loop around them; [`assign`] (with `attempt`: one reading, one transaction) and
//!   [`release`]: its two directions; [`affinity`]: whose a block is, taken back
//! - [`plan`]: what a choice of pools and block sizes will cost (pure)
//! - [`service_address`]: addresses of services that no IPPool holds, and their handing over
//! - [`environment`]: the time and randomness that it takes from outside

pub mod affinity;
pub mod allocator;
pub mod assign;
mod attempt;
pub mod block;
pub mod check;
pub mod environment;
pub mod gc;
pub mod handle;
pub mod plan;
pub mod pool;
pub mod release;
pub mod service_address;

pub use allocator::{DEFAULT_MAX_BLOCKS_PER_HOST, Error, IpInfo, Ipam};
pub use api::ip_pool::AllowedUse;
pub use api::ipam::{AllocationBlock, IpamConfig};
pub use api::key::{AffinityOwner, LOAD_BALANCER_OWNER};
pub use assign::{AssignRequest, Assignment};
pub use release::ReleaseRequest;
