//! `bgpctl`: `calicoctl` under its other name.

fn main() -> std::process::ExitCode {
    calicoctl::main()
}
