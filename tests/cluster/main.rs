//! The ledger as a host sees it: whole nodes, alone and in groups, through the public API only.

#![cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, unused_imports, reason = "some tests need Linux")
)]

mod builders;
mod chunks;
mod cluster_of;
mod damaged;
mod failover;
mod full_disk;
mod gated;
mod handover;
mod history;
mod lines;
mod lossy;
mod members;
mod one_node;
mod outcomes;
mod places;
mod recycled;
mod replication;
mod retention;
#[path = "../shared/rng.rs"]
#[expect(dead_code, reason = "drawn by other tests only")]
mod rng;
mod roles;
mod shutdown;
#[cfg(feature = "stream")]
mod streams;
mod tails;
mod tasks;
mod watching;
