//! The files of a layer, and where shared libraries come from.
//!
//! Invariants: a layer's bytes depend on names, modes and contents alone; a library is taken only if it is of the image's
//! machine; what no directory holds is an error that names the library.

use super::elf;
use super::layout::Platform;
use anyhow::{Context as _, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// As `/etc/nsswitch.conf` of the image names them.
const NAME_SERVICES: [&str; 2] = ["libnss_dns.so.2", "libnss_files.so.2"];

/// Path (relative) to what is there. A directory's path sorts before what is in it.
#[derive(Default)]
pub(super) struct Rootfs(BTreeMap<String, Entry>);

enum Entry {
    Directory(u32),
    File(u32, Vec<u8>),
}

impl Rootfs {
    /// A file and the directories above it.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.parents(path);
        self.0.insert(path.to_owned(), Entry::File(mode, content));
    }

    fn directory(&mut self, path: &str, mode: u32) {
        self.parents(path);
        self.0.insert(path.to_owned(), Entry::Directory(mode));
    }

    fn parents(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            self.0.entry(path[..at].to_owned()).or_insert(Entry::Directory(0o755));
        }
    }

    /// Who is who, how names are resolved, and the directories that a runtime mounts over.
    pub(super) fn skeleton(&mut self) {
        let text = |text: &str| text.as_bytes().to_vec();
        self.file(
            "etc/passwd",
            0o644,
            text("root:x:0:0:root:/:/nonexistent\nnonroot:x:65532:65532:nonroot:/:/nonexistent\n"),
        );
        self.file("etc/group", 0o644, text("root:x:0:\nnonroot:x:65532:\n"));
        self.file("etc/nsswitch.conf", 0o644, text("passwd: files\ngroup: files\nhosts: files dns\n"));
        for directory in ["dev", "proc", "run", "sys", "var/lib"] {
            self.directory(directory, 0o755);
        }
        self.directory("tmp", 0o1777);
    }

    /// Everything that the programs need to start.
    pub(super) fn libraries<'a>(
        &mut self,
        programs: impl Iterator<Item = (&'a str, &'a [u8])>,
        platform: Platform,
    ) -> Result<()> {
        // Until glibc 2.34 it loads these by name once a name is resolved, and no program says that it needs them.
        let mut wanted: BTreeSet<String> = NAME_SERVICES
            .iter()
            .filter(|name| find(name, platform).is_ok())
            .map(|name| (*name).to_owned())
            .collect();
        let mut done = BTreeSet::new();
        for (name, program) in programs {
            let needs = elf::needs(program).with_context(|| format!("cannot read {name}"))?;
            if needs.machine != platform.machine() {
                bail!("{name} is not a program for {platform}");
            }
            if let Some(path) = needs.interpreter {
                let file = Path::new(&path).file_name().context("an interpreter has a name")?;
                let file = file.to_string_lossy().into_owned();
                let (_, content) = find(&file, platform)?;
                self.file(path.trim_start_matches('/'), 0o755, content);
                done.insert(file);
            }
            wanted.extend(needs.libraries);
        }
        while let Some(name) = wanted.pop_first() {
            if !done.insert(name.clone()) {
                continue;
            }
            let (directory, content) = find(&name, platform)?;
            wanted.extend(elf::needs(&content).with_context(|| format!("cannot read {name}"))?.libraries);
            self.file(&format!("{}/{name}", directory.trim_start_matches('/')), 0o755, content);
        }
        Ok(())
    }

    /// As a layer.
    pub(super) fn tar(self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, entry) in self.0 {
            let mut header = tar::Header::new_ustar();
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            match entry {
                Entry::Directory(mode) => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(mode);
                    header.set_size(0);
                    tar.append_data(&mut header, format!("{path}/"), &[][..])?;
                }
                Entry::File(mode, content) => {
                    header.set_mode(mode);
                    header.set_size(content.len() as u64);
                    tar.append_data(&mut header, path, content.as_slice())?;
                }
            }
        }
        Ok(tar.into_inner()?)
    }
}

/// A library of this name and machine: the directory where the loader looks for it, and its content.
fn find(name: &str, platform: Platform) -> Result<(String, Vec<u8>)> {
    let multiarch = platform.multiarch();
    let home = format!("/lib/{multiarch}");
    let places = [
        (home.clone(), home.clone()),
        (format!("/usr/lib/{multiarch}"), home.clone()),
        // A cross compiler's.
        (format!("/usr/{multiarch}/lib"), home),
        ("/lib64".to_owned(), "/lib64".to_owned()),
        ("/usr/lib64".to_owned(), "/lib64".to_owned()),
        ("/lib".to_owned(), "/lib".to_owned()),
        ("/usr/lib".to_owned(), "/usr/lib".to_owned()),
    ];
    for (from, to) in places {
        let Ok(content) = fs::read(Path::new(&from).join(name)) else { continue };
        if elf::needs(&content).is_ok_and(|needs| needs.machine == platform.machine()) {
            return Ok((to, content));
        }
    }
    bail!("{name} for {platform} is in none of the usual directories; install the C library of {multiarch}")
}
