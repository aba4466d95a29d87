//! Prints Weft's CustomResourceDefinitions as the templates of their chart, for `cargo xtask gen`: a JSON object of file
//! names and texts.

use std::collections::BTreeMap;
use std::process::ExitCode;

fn main() -> ExitCode {
    match print() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-crd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print() -> Result<(), Box<dyn std::error::Error>> {
    let templates: BTreeMap<String, String> = mesh_crd::crds::templates()?.into_iter().collect();
    println!("{}", serde_json::to_string_pretty(&templates)?);
    Ok(())
}
