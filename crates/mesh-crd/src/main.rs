//! Prints Weft's CustomResourceDefinitions as YAML, for `cargo xtask gen`.

use kube::CustomResourceExt as _;
use mesh_crd::{MeshConfig, NodeState};

fn main() -> Result<(), serde_saphyr::ser::Error> {
    for crd in [MeshConfig::crd(), NodeState::crd()] {
        print!("---\n{}", serde_saphyr::to_string(&crd)?);
    }
    Ok(())
}
