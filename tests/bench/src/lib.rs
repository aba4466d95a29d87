//! The benches. Of the data path: the same programs on the same links with the mesh and without, in the same run. Of
//! policies ([`policy`]): the same pods in an empty world and in a full one. Of observability ([`observe`]): the same agents
//! with metrics and access lines and without. Of the control plane ([`control`]): one controller, simulated agents.
//!
//! ```text
//!   weft-bench ─▶ stage (lab, pods, servers) ─▶ for each path and work: round 1 direct, weft, (yardstick), round 2 …
//!                                               └ window: program, its figures, agents' CPU, neighbours ─▶ proof
//!   summary (ratio of each round, min/median/max) ─▶ table, JSON
//! ```
//!
//! Invariants: a figure of the mesh is only taken if the agents' own counters show that the bytes went through it, and a
//! figure of the direct pair only if they show nothing (of the yardstick, if its own do); ratios are made of neighbouring windows, never of medians.
//! Not here: a verdict on what goes through the agents. What goes past them is held to [`bars`].

pub mod bars;
pub mod cli;
pub mod control;
pub mod cpu;
pub mod datapath;
pub mod load;
pub mod maps;
pub mod memory;
pub mod neighbours;
pub mod observe;
pub mod pin;
pub mod policy;
pub mod proof;
pub mod report;
pub mod stage;
pub mod summary;
pub mod window;
pub mod works;
pub mod yardstick;
