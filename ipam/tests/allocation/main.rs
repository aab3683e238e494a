//! Allocation against real stores: order of decisions ([`decisions`]), races and failures ([`races`]), what others left behind
//! ([`damage`]), giving back ([`release`]), a store that is followed ([`following`]), a client that is cut off ([`cut`]), the lock
//! ([`lock`]), the planner beside them ([`planner`]), blocks whose bytes are spent before their addresses are ([`large`]), requests of
//! which a part is written ([`partial`]).

mod cut;
mod damage;
mod decisions;
mod following;
mod lab;
mod large;
mod lock;
mod partial;
mod planner;
mod races;
mod release;
mod watched;
