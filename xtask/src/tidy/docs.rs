//! Rules about documents.

use super::{Files, Verdict};
use anyhow::Result;
use std::path::{Component, Path, PathBuf};

pub(super) fn check(files: &Files) -> Result<Vec<Verdict>> {
    Ok(vec![
        ("links in documents lead somewhere", broken_links(files)),
        ("the README names the two commands", unnamed_commands(files)),
        ("docs/dependencies.md accounts for every dependency", unexplained(files)),
    ])
}

fn broken_links(files: &Files) -> Vec<String> {
    let mut broken = Vec::new();
    for (path, text) in files.ending(".md") {
        for target in links(text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let place = match file {
                "" => PathBuf::from(path),
                file => normal(&Path::new(path).parent().unwrap_or(Path::new("")).join(file)),
            };
            if !files.root.join(&place).exists() {
                broken.push(format!("{path}: {target} is not there"));
                continue;
            }
            let document = place.to_str().and_then(|place| files.text(place));
            if !anchor.is_empty() && document.is_some_and(|text| !anchors(text).any(|known| known == anchor))
            {
                broken.push(format!("{path}: {target} has no such heading"));
            }
        }
    }
    broken
}

/// Targets of `[text](target)`, outside fenced blocks and code.
fn links(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for line in prose(text) {
        for (number, part) in line.split('`').enumerate() {
            // Every other part is code; a link whose text is code is cut in two, and its target is in the later half.
            if number % 2 == 0 {
                let targets = part.match_indices("](").map(|(at, _)| &part[at + 2..]);
                found.extend(targets.filter_map(|rest| rest.split([')', ' ']).next()));
            }
        }
    }
    found
}

/// Lines outside fenced blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// The anchors of a document's headings, made the way code forges make them.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    prose(text).filter(|line| line.starts_with('#')).map(|line| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

/// Without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                result.pop();
            }
            Component::CurDir => {}
            other => result.push(other),
        }
    }
    result
}

fn unnamed_commands(files: &Files) -> Vec<String> {
    let Some(readme) = files.text("README.md") else { return vec!["README.md is not there".to_owned()] };
    let commands = ["cargo xtask demo", "cargo xtask test"];
    let unnamed = commands.iter().filter(|command| !readme.contains(**command));
    unnamed.map(|command| format!("README.md does not name `{command}`")).collect()
}

/// Every foreign crate of `[workspace.dependencies]` has a row of its own.
fn unexplained(files: &Files) -> Vec<String> {
    let path = "docs/dependencies.md";
    let (Some(text), Some(manifest)) = (files.text(path), files.text("Cargo.toml")) else {
        return vec![format!("{path} is not there")];
    };
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
    foreign(manifest)
        .filter(|name| {
            !rows
                .iter()
                .any(|row| row.split('|').nth(1).is_some_and(|cell| cell.contains(&format!("`{name}`"))))
        })
        .map(|name| format!("{path}: no row for `{name}`"))
        .collect()
}

fn foreign(manifest: &str) -> impl Iterator<Item = &str> {
    let lines = manifest.lines().skip_while(|line| *line != "[workspace.dependencies]").skip(1);
    let entries = lines.take_while(|line| !line.starts_with('[')).filter_map(|line| line.split_once(" = "));
    entries.filter(|(_, value)| !value.contains("path = ")).map(|(name, _)| name.trim())
}

#[cfg(test)]
mod tests;
