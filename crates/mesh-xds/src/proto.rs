//! The generated messages and service of `proto/control.proto`. Nothing else: meaning is given in [`crate::resource`].

#![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]

tonic::include_proto!("weft.control.v1");
