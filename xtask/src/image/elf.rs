//! What a program says it needs in order to start: its interpreter and its shared libraries (elf(5)).
//!
//! Read from the file and not asked of `ldd`, which runs the program and so cannot do it for another machine's.

use anyhow::{Context as _, Result, bail};

/// Loadable segment, dynamic section, interpreter (`p_type`).
const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
/// End, needed library, string table (`d_tag`).
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Needs {
    /// `e_machine`: 62 is amd64, 183 is arm64.
    pub(super) machine: u16,
    /// The program that starts it; none for a library or a static program.
    pub(super) interpreter: Option<String>,
    /// Names of libraries, without directories.
    pub(super) libraries: Vec<String>,
}

/// One row of the program headers.
struct Segment {
    kind: u64,
    offset: u64,
    address: u64,
    size: u64,
}

/// Reads a 64-bit little-endian file.
pub(super) fn needs(file: &[u8]) -> Result<Needs> {
    if file.get(..6) != Some(b"\x7fELF\x02\x01") {
        bail!("not a 64-bit little-endian ELF file");
    }
    let machine = number(file, 18, 2)? as u16;
    let (table, size, count) = (number(file, 32, 8)?, number(file, 54, 2)?, number(file, 56, 2)?);
    let segments: Vec<Segment> = (0..count)
        .map(|index| {
            let at = table.saturating_add(index * size);
            Ok(Segment {
                kind: number(file, at, 4)?,
                offset: number(file, at.saturating_add(8), 8)?,
                address: number(file, at.saturating_add(16), 8)?,
                size: number(file, at.saturating_add(32), 8)?,
            })
        })
        .collect::<Result<_>>()?;
    let find = |kind| segments.iter().find(|segment| segment.kind == kind);
    let interpreter = find(PT_INTERP).map(|segment| text(file, segment.offset)).transpose()?;
    let Some(dynamic) = find(PT_DYNAMIC) else {
        return Ok(Needs { machine, interpreter, libraries: Vec::new() });
    };
    let mut needed = Vec::new();
    let mut strings = None;
    for at in (0..dynamic.size / 16).map(|index| dynamic.offset.saturating_add(index * 16)) {
        let value = number(file, at.saturating_add(8), 8)?;
        match number(file, at, 8)? {
            DT_NULL => break,
            DT_NEEDED => needed.push(value),
            DT_STRTAB => strings = Some(value),
            _ => {}
        }
    }
    let strings = strings.context("no string table")?;
    let strings = segments
        .iter()
        .filter(|segment| segment.kind == PT_LOAD)
        .find_map(|segment| {
            let inside = strings.checked_sub(segment.address).filter(|inside| *inside < segment.size)?;
            Some(segment.offset.saturating_add(inside))
        })
        .context("the string table is in no segment")?;
    let libraries =
        needed.iter().map(|name| text(file, strings.saturating_add(*name))).collect::<Result<_>>()?;
    Ok(Needs { machine, interpreter, libraries })
}

fn number(file: &[u8], at: u64, bytes: usize) -> Result<u64> {
    let at = usize::try_from(at).context("an offset beyond memory")?;
    let end = at.checked_add(bytes).context("an offset beyond memory")?;
    let slice = file.get(at..end).context("the file is cut off")?;
    Ok(slice.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

/// Up to the zero byte.
fn text(file: &[u8], at: u64) -> Result<String> {
    let at = usize::try_from(at).context("an offset beyond memory")?;
    let rest = file.get(at..).context("the file is cut off")?;
    let end = rest.iter().position(|byte| *byte == 0).context("a string without an end")?;
    String::from_utf8(rest[..end].to_vec()).context("a name that is no text")
}
