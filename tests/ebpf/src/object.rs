//! The object under test: where it is, and what a loader reads in it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use aya_obj::Object;

/// Where it is below the target directory.
const BELOW_TARGET: &str = "ebpf/mesh.bpf.o";

/// Its path: `WEFT_EBPF_OBJECT`, else in the target directory that holds the running test.
pub fn path() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("WEFT_EBPF_OBJECT") {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("WEFT_EBPF_OBJECT names {}, which is no file", path.display());
        }
        return Ok(path);
    }
    let executable = std::env::current_exe().context("find the running test")?;
    let found = executable.ancestors().map(|above| above.join(BELOW_TARGET)).find(|path| path.is_file());
    found.with_context(|| {
        format!("there is no {BELOW_TARGET} in the target directory: run `cargo xtask build-ebpf`")
    })
}

/// Its bytes, aligned as the ELF reader wants them.
pub fn bytes() -> Result<Vec<u8>> {
    read(&path()?)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    if bytes.is_empty() {
        bail!("{} is empty: run `cargo xtask build-ebpf`", path.display());
    }
    Ok(bytes)
}

/// It, parsed.
pub fn parsed() -> Result<Object> {
    Object::parse(&bytes()?).context("parse the eBPF object")
}
