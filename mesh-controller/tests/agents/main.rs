//! A controller and its agents over real TLS: what each agent is told, and when.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod lab;

mod authority;
mod capture;
mod files;
mod restart;
mod signing;
mod tokens;
