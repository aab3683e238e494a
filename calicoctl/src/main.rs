//! `calicoctl`. `bgpctl` is the same program under its other name.

fn main() -> std::process::ExitCode {
    calicoctl::main()
}
