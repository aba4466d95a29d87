//! The types that an object's maps say they hold (BTF: Documentation/bpf/btf.rst of the kernel), as far as a name and a
//! size go.

use anyhow::{Context, Result, bail};

const MAGIC: u16 = 0xeb9f;

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const ENUM64: u32 = 19;

/// All types of an object.
#[derive(Debug)]
pub struct Btf {
    types: Vec<Type>,
}

/// One type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    /// Its name; empty for one that has none.
    pub name: String,
    /// In bytes, for an integer, structure, union or enumeration; else the number of the type that it refers to.
    pub size: u32,
    /// Names of the members of a structure.
    pub members: Vec<String>,
}

impl Btf {
    /// Reads the section as it stands in the object.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let word = |at: usize| -> Result<u32> {
            let word = bytes.get(at..at + 4).context("BTF ends early")?;
            Ok(u32::from_ne_bytes(word.try_into()?))
        };
        if word(0)? & 0xffff != u32::from(MAGIC) {
            bail!("no BTF of this machine's byte order");
        }
        let header = word(4)? as usize;
        let (types_at, types_length) = (header + word(8)? as usize, word(12)? as usize);
        let strings_at = header + word(16)? as usize;
        let name = |offset: u32| -> Result<String> {
            let rest = bytes.get(strings_at + offset as usize..).context("a name outside of BTF")?;
            let end = rest.iter().position(|byte| *byte == 0).context("a name without end")?;
            Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
        };
        // Number 0 is void.
        let mut types = vec![Type { name: String::new(), size: 0, members: Vec::new() }];
        let mut at = types_at;
        while at < types_at + types_length {
            let (info, size) = (word(at + 4)?, word(at + 8)?);
            let (kind, length) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let own = at + 12;
            let extra = match kind {
                INT | VAR | DECL_TAG => 4,
                ARRAY => 12,
                STRUCT | UNION | DATASEC | ENUM64 => 12 * length,
                ENUM | FUNC_PROTO => 8 * length,
                _ => 0,
            };
            let members = match kind {
                STRUCT | UNION => {
                    (0..length).map(|index| name(word(own + 12 * index)?)).collect::<Result<_>>()?
                }
                _ => Vec::new(),
            };
            let size = if kind == PTR { 8 } else { size };
            types.push(Type { name: name(word(at)?)?, size, members });
            at = own + extra;
        }
        Ok(Self { types })
    }

    /// A type by its number.
    pub fn by_id(&self, id: u32) -> Result<&Type> {
        self.types.get(id as usize).filter(|_| id != 0).with_context(|| format!("no BTF type {id}"))
    }
}
