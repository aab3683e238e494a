//! Allocation against real stores: order of decisions ([`decisions`]), races and failures ([`races`]), what others left behind
//! ([`damage`]), giving back ([`release`]).

mod damage;
mod decisions;
mod etcd;
mod lab;
mod races;
mod release;
