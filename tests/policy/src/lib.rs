//! What the files of the policy suite share: who is in the play, how a policy is put in force, what comes of a connect.
//!
//! The suite itself is in `tests/`. A policy is waited for as an operator would (`Enforced`), never slept for.

pub mod bound;
pub mod cast;
pub mod counts;
pub mod enforce;
pub mod forge;
pub mod near;
pub mod open;
pub mod talk;
