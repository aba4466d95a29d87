//! Embeds the eBPF object, or an empty stub where `cargo xtask build-ebpf` has not made one.
//!
//! So `cargo check` and the unit tests work on stable Rust for everybody; an agent with the stub refuses to start.

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    // OUT_DIR is TARGET/PROFILE/build/mesh-agent-HASH/out.
    let built = env::var_os("WEFT_EBPF_OBJECT")
        .map(PathBuf::from)
        .or_else(|| Some(out.ancestors().nth(4)?.join("ebpf/mesh.bpf.o")))
        .unwrap_or_default();
    println!("cargo::rerun-if-env-changed=WEFT_EBPF_OBJECT");
    println!("cargo::rerun-if-changed={}", built.display());
    match fs::read(&built) {
        Ok(object) => fs::write(out.join("mesh.bpf.o"), object),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::write(out.join("mesh.bpf.o"), []),
        Err(error) => Err(error),
    }
}
