//! What several files of the datapath suite share. The suite itself is in `tests/`, one file per promise.
//!
//! Every test of it has its mesh in a lab ([`lab::Lab`]) and tells what it found row by row ([`lab::row::Table`]). Here are
//! only the usual cast of pods, load, connections that are held open, conversations whose two ends are in the hands of the
//! test, and ways to look at the mesh from outside: the wire's SYNs, the agents' tables and their memory.

pub mod cast;
pub mod cold;
pub mod conversation;
pub mod hammer;
pub mod held;
pub mod home;
pub mod kept;
pub mod memory;
pub mod openssl;
pub mod report;
pub mod seen;
pub mod services;
pub mod socket_lb;
pub mod words;
