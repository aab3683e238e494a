//! Allocation against real stores: order of decisions ([`decisions`]), races and failures ([`races`]), what others left behind
//! ([`damage`]).

mod damage;
mod decisions;
mod lab;
mod races;
