//! Allocation against real stores: order of decisions ([`decisions`]), races and failures ([`races`]), what others left behind
//! ([`damage`]), giving back ([`release`]), the planner beside
//! them ([`planner`]).

mod damage;
mod decisions;
mod etcd;
mod lab;
mod planner;
mod races;
mod release;
