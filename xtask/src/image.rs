//! `cargo xtask image`: container images as OCI archives, with no daemon, no builder and no base image.
//!
//! ```text
//! target/release/PROGRAM ──strip──► layer 2: /usr/bin        ┐
//!   └─ELF: interpreter, needed─► layer 1: /lib…, /etc/passwd ├─► manifest per platform ─► index ─► DIR/NAME.tar
//!                                config: entrypoint, user    ┘
//! ```
//!
//! An image holds the programs, the shared libraries that they name, and three files of `/etc`: no shell, no package manager,
//! no CA certificates (Weft trusts its own roots alone). The same programs and libraries give the same bytes: entries
//! are sorted, times are 0, owners are root.
//!
//! `deploy/images/Containerfile` makes the same images where there is a builder.

mod elf;
mod layout;
mod rootfs;

use crate::build_ebpf;
use crate::lab;
use crate::paths::{Workspace, find_program};
use crate::process;
use crate::setup::{self, Need};
use crate::ui::{self, say};
use anyhow::{Context as _, Result, bail};
use layout::{Archive, Config, Platform};
use rootfs::Rootfs;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[cfg(test)]
mod tests;

/// Arguments of `image`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the archives go, NAME.tar each; made if it is not there
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Tag of the images; default: the workspace's version
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// What the images' names begin with; the chart's default is the same
    #[arg(long, value_name = "PREFIX", default_value = "localhost/weft")]
    repository: String,
    /// Platforms of the images, several for one archive that has them all; default: this machine's. Another than this
    /// machine's needs its Rust target and a linker for it
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',', value_parser = Platform::parse)]
    platform: Vec<Platform>,
    /// Take programs as they are built already
    #[arg(long)]
    no_build: bool,
}

/// An image: what is in it and how it starts.
struct Image {
    name: &'static str,
    about: &'static str,
    /// The first one is the entrypoint.
    programs: &'static [&'static str],
    /// `uid:gid`.
    user: &'static str,
}

/// meshctl is in both: it speaks to the admin socket of the end beside it, which nobody reaches from outside.
const IMAGES: [Image; 2] = [
    Image {
        name: "mesh-agent",
        about: "Weft's agent: one on every node",
        programs: &["mesh-agent", "meshctl"],
        user: "0:0",
    },
    Image {
        name: "mesh-controller",
        about: "Weft's controller",
        programs: &["mesh-controller", "meshctl"],
        user: "65532:65532",
    },
];
const PACKAGES: [&str; 3] = ["mesh-agent", "mesh-controller", "mesh-cli"];

/// `cargo xtask image`.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    process::watch_signals()?;
    let host = Platform::host()?;
    let platforms = if args.platform.is_empty() { vec![host] } else { args.platform.clone() };
    if !args.no_build {
        setup::require(workspace, &[Need::Compiler, Need::Ebpf])?;
        build_ebpf::build(workspace, false)?;
        for &platform in &platforms {
            build(workspace, platform, host)?;
        }
    }
    fs::create_dir_all(&args.output).with_context(|| format!("cannot create {}", args.output.display()))?;
    let version = crate::gen_charts::version(workspace)?;
    let tag = args.tag.clone().unwrap_or_else(|| version.clone());
    for image in IMAGES {
        let mut archive = Archive::new(&format!("{}/{}", args.repository, image.name), &tag);
        for &platform in &platforms {
            let programs = image.programs.iter().map(|name| {
                let built = place(workspace, platform, host).join(name);
                Ok(((*name).to_owned(), stripped(workspace, &built, platform, host)?))
            });
            let programs: Vec<(String, Vec<u8>)> = programs.collect::<Result<_>>()?;
            let config = Config {
                title: image.name.to_owned(),
                about: image.about.to_owned(),
                version: version.clone(),
                entrypoint: format!("/usr/bin/{}", image.programs[0]),
                user: image.user.to_owned(),
            };
            add(&mut archive, platform, &programs, &config)?;
        }
        let path = args.output.join(format!("{}.tar", image.name));
        let bytes = archive.finish()?;
        fs::write(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
        let names: Vec<String> = platforms.iter().map(Platform::to_string).collect();
        say!(
            "{}  {} ({}/{}:{tag}, {}, {} MiB)",
            ui::green("ok     "),
            path.display(),
            args.repository,
            image.name,
            names.join(", "),
            bytes.len() >> 20
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// One platform's image.
fn add(
    archive: &mut Archive,
    platform: Platform,
    programs: &[(String, Vec<u8>)],
    config: &Config,
) -> Result<()> {
    let mut base = Rootfs::default();
    base.skeleton();
    base.libraries(programs.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())), platform)?;
    let mut top = Rootfs::default();
    for (name, bytes) in programs {
        top.file(&format!("usr/bin/{name}"), 0o755, bytes.clone());
    }
    archive.add(platform, &[base.tar()?, top.tar()?], config)
}

/// Where cargo puts the programs of a platform.
fn place(workspace: &Workspace, platform: Platform, host: Platform) -> PathBuf {
    let target =
        if platform == host { workspace.target.clone() } else { workspace.target.join(platform.triple()) };
    target.join("release")
}

fn build(workspace: &Workspace, platform: Platform, host: Platform) -> Result<()> {
    if platform == host {
        return lab::build_programs(workspace, &PACKAGES);
    }
    let triple = platform.triple();
    ui::heading(&format!("building for {triple}"));
    let mut cargo = process::cargo();
    cargo.current_dir(&workspace.root).args(["build", "--release", "--locked", "--bins", "--target", triple]);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    let prefix = triple.replace("-unknown", "");
    let linker = format!("CARGO_TARGET_{}_LINKER", triple.to_uppercase().replace('-', "_"));
    if std::env::var_os(&linker).is_none() && find_program(&format!("{prefix}-gcc")).is_some() {
        cargo.env(&linker, format!("{prefix}-gcc"));
    }
    process::run(&mut cargo, &format!("the build for {triple}")).with_context(|| {
        format!("{platform} needs `rustup target add {triple}` and a C compiler for it ({prefix}-gcc)")
    })
}

/// A program without debug information: four fifths of the file. Without a `strip` for the platform, as it is.
fn stripped(workspace: &Workspace, built: &Path, platform: Platform, host: Platform) -> Result<Vec<u8>> {
    if !built.is_file() {
        bail!("{} is not there: leave out --no-build", built.display());
    }
    let strip = match platform == host {
        true => "strip".to_owned(),
        false => format!("{}-strip", platform.triple().replace("-unknown", "")),
    };
    let Some(strip) = find_program(&strip) else {
        say!("{}  no {strip}: {} keeps its debug information", ui::yellow("note   "), built.display());
        return fs::read(built).with_context(|| format!("cannot read {}", built.display()));
    };
    let name = built.file_name().context("a program has a name")?.to_string_lossy().into_owned();
    let copy = workspace.scratch()?.join(format!("image-{}-{name}-{}", platform.arch(), std::process::id()));
    let mut command = process::command(strip);
    command.args(["--strip-debug", "-o"]).arg(&copy).arg(built);
    process::run(&mut command, "strip")?;
    let bytes = fs::read(&copy).with_context(|| format!("cannot read {}", copy.display()));
    fs::remove_file(&copy).with_context(|| format!("cannot remove {}", copy.display()))?;
    bytes
}
