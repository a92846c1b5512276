//! Hostile peers of a running node: their bytes are rejected, and cost the node no entry, no
//! service, and a bounded amount of memory.
//!
//! See `README.md`. The protocol is spoken by hand here, from its description alone.
#![cfg(target_os = "linux")]

mod byzantine;
mod group;
mod half_open;
mod heartbeats;
mod memory;
mod pieces;
mod rejections;
#[path = "../shared/rng.rs"]
#[expect(dead_code, reason = "drawn by other tests only")]
mod rng;
mod wire;
