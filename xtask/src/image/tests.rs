#![allow(clippy::unwrap_used, reason = "a test")]

use super::*;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::Read as _;

/// A tar archive's files (and directories), with their modes.
fn entries(tar: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        assert_eq!(entry.header().mtime().unwrap(), 0, "{path}");
        assert_eq!(entry.header().uid().unwrap(), 0, "{path}");
        let mode = entry.header().mode().unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (path, (mode, content))
    });
    entries.collect()
}

/// Follows a descriptor, and holds it to its word.
fn follow<'a>(files: &'a BTreeMap<String, (u32, Vec<u8>)>, descriptor: &Value) -> &'a [u8] {
    let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let (_, content) = &files[&format!("blobs/sha256/{digest}")];
    assert_eq!(descriptor["size"], content.len());
    let really: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, really);
    content
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// An image of this very test program.
fn image(platforms: usize) -> Vec<u8> {
    let program = fs::read(std::env::current_exe().unwrap()).unwrap();
    let config = Config {
        title: "self".into(),
        about: "a test".into(),
        version: "1".into(),
        entrypoint: "/usr/bin/self".into(),
        user: "65532:65532".into(),
    };
    let mut archive = Archive::new("localhost/weft/self", "t1");
    for _ in 0..platforms {
        add(&mut archive, Platform::host().unwrap(), &[("self".into(), program.clone())], &config).unwrap();
    }
    archive.finish().unwrap()
}

#[test]
fn an_archive_is_a_valid_layout_that_starts_the_program() {
    let files = entries(&image(1));
    assert_eq!(json(&files["oci-layout"].1)["imageLayoutVersion"], "1.0.0");
    let index = json(&files["index.json"].1);
    let top = &index["manifests"][0];
    assert_eq!(top["annotations"]["io.containerd.image.name"], "localhost/weft/self:t1");
    assert_eq!(top["annotations"]["org.opencontainers.image.ref.name"], "t1");
    assert_eq!(top["platform"]["architecture"], Platform::host().unwrap().arch());
    let manifest = json(follow(&files, top));
    let config = json(follow(&files, &manifest["config"]));
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/usr/bin/self"]));
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Env"], serde_json::json!(["PATH=/usr/bin"]));

    let mut root = BTreeMap::new();
    for (layer, diff) in
        manifest["layers"].as_array().unwrap().iter().zip(config["rootfs"]["diff_ids"].as_array().unwrap())
    {
        assert_eq!(&layer["digest"], diff);
        root.extend(entries(follow(&files, layer)));
    }
    let (mode, program) = &root["usr/bin/self"];
    assert_eq!(*mode, 0o755);
    let needs = elf::needs(program).unwrap();
    if let Some(interpreter) = needs.interpreter {
        assert!(root.contains_key(interpreter.trim_start_matches('/')), "{interpreter}");
    }
    for library in needs.libraries {
        assert!(root.keys().any(|path| path.ends_with(&format!("/{library}"))), "{library}");
    }
    assert!(String::from_utf8_lossy(&root["etc/passwd"].1).contains("nonroot:x:65532:65532:"));
    assert_eq!(root["tmp/"].0, 0o1777);
    assert_eq!(
        files.keys().filter(|path| path.starts_with("blobs/")).count(),
        4,
        "two layers, config, manifest"
    );
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    assert_eq!(Sha256::digest(image(1)), Sha256::digest(image(1)));
}

#[test]
fn several_platforms_are_one_index_below_one_name() {
    let files = entries(&image(2));
    let index = json(&files["index.json"].1);
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    let nested = json(follow(&files, &index["manifests"][0]));
    assert_eq!(nested["manifests"].as_array().unwrap().len(), 2);
    for manifest in nested["manifests"].as_array().unwrap() {
        follow(&files, manifest);
        assert_eq!(manifest["platform"]["os"], "linux");
    }
}

#[test]
fn what_is_no_program_is_an_error_that_names_it() {
    let mut rootfs = Rootfs::default();
    let host = Platform::host().unwrap();
    let error = rootfs.libraries([("script", &b"#!/bin/sh\n"[..])].into_iter(), host).unwrap_err();
    assert_eq!(error.to_string(), "cannot read script");
    let other = if host == Platform::Amd64 { Platform::Arm64 } else { Platform::Amd64 };
    let program = fs::read(std::env::current_exe().unwrap()).unwrap();
    let error = rootfs.libraries([("self", program.as_slice())].into_iter(), other).unwrap_err();
    assert!(error.to_string().contains("self is not a program for"), "{error}");
    for cut in [10, 60, 1000] {
        assert!(elf::needs(&program[..cut]).is_err(), "cut at {cut}");
    }
}
