//! Compiles the BPF programs with clang and generates the Rust types of their maps from the BTF.
//!
//! `BPF_CLANG` names the compiler; else the first of [`CLANGS`] that runs is taken.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libbpf_cargo::SkeletonBuilder;

/// In order of preference: 19 is what the programs are tested with, 14 generates slightly worse code.
const CLANGS: [&str; 6] = ["clang-19", "clang-20", "clang-22", "clang", "clang-16", "clang-14"];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let clang = clang()?;
    for name in ["tc", "connect"] {
        builder(name, &clang).obj(out.join(format!("{name}.bpf.o"))).build()?;
    }
    builder("layout", &clang).build_and_generate(out.join("layout.rs"))?;
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=BPF_CLANG");
    Ok(())
}

fn builder(name: &str, clang: &str) -> SkeletonBuilder {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let mut builder = SkeletonBuilder::new();
    builder.source(Path::new("bpf").join(format!("{name}.bpf.c"))).clang(clang).clang_args([
        // Debian keeps asm/types.h here.
        format!("-I/usr/include/{arch}-linux-gnu"),
        "-mcpu=v3".into(),
        "-Wall".into(),
        "-Wextra".into(),
        "-Werror".into(),
    ]);
    builder
}

fn clang() -> Result<String, String> {
    if let Ok(clang) = env::var("BPF_CLANG") {
        return Ok(clang);
    }
    let runs = |name: &&&str| {
        Command::new(name).arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    CLANGS.iter().find(runs).map(|name| name.to_string()).ok_or_else(|| {
        format!("no clang to compile the BPF programs with: install clang-19, or set BPF_CLANG (tried {CLANGS:?})")
    })
}
