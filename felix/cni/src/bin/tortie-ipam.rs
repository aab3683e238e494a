//! The CNI IPAM plugin `tortie-ipam`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cni::program::main("tortie-ipam", "Gives a container addresses of Tortie's pools.", cni::address::run)
}
