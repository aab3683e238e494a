//! bgpd: Tortie's BGP speaker.

mod config;
mod speaker;

fn main() {}
