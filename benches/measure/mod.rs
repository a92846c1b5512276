//! What the benchmarks have in common: groups and loads, the raw machine beside them, tables.

#![allow(dead_code, reason = "each benchmark uses its part")]

pub(crate) mod async_tasks;
pub(crate) mod blocking;
pub(crate) mod cluster;
pub(crate) mod dispatch;
pub(crate) mod followers;
pub(crate) mod load;
pub(crate) mod lookups;
pub(crate) mod loopback;
pub(crate) mod machine;
pub(crate) mod processes;
pub(crate) mod raw_log;
pub(crate) mod raw_records;
pub(crate) mod raw_sync;
pub(crate) mod retained;
pub(crate) mod scratch;
pub(crate) mod table;
pub(crate) mod tasks;
pub(crate) mod turn;
