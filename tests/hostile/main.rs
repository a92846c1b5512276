//! Peers that mean harm, at a node that runs: what they send is refused, and costs the node no
//! entry, no service, and a bounded part of its memory.
//!
//! See `README.md`. The protocol is spoken by hand here, from its description alone.
#![cfg(target_os = "linux")]

mod byzantine;
mod crowd;
mod group;
mod heartbeats;
mod memory;
mod pieces;
mod rejections;
mod wire;
