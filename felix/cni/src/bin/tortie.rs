//! The CNI plugin `tortie`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cni::program::main("tortie", "Gives a container its interface, with addresses of an IPAM plugin.", cni::plugin::run)
}
