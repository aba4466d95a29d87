//! One file per attach point. A hook looks up what the verdict needs, asks `verdict`, and carries it out.

/// Reads a field of a context, where and as wide as it is written: the verifier takes no access that the compiler has
/// widened, merged or moved behind a computed pointer.
macro_rules! read {
    ($context:expr, $field:ident $([$index:literal])?) => {
        core::ptr::read_volatile(&raw const (*$context).$field $([$index])?)
    };
}

mod connect;
mod guard;
mod peername;
mod sk_lookup;
mod sockops;
mod way;
