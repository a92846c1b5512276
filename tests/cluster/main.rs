//! The ledger as a host sees it: whole nodes, alone and in groups, through the public API only.

mod cluster_of;
mod damaged;
mod failover;
mod fates;
mod full_disk;
mod gated;
mod handover;
mod history;
mod lossy;
mod one_node;
mod recycled;
mod replication;
mod roles;
mod shutdown;
mod tasks;
mod watching;
