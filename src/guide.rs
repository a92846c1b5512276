//! Guides: how to embed the log in a broker, and how to come from Java DLedger.
//!
//! They hold no code of the library, only text, and programs that run.

pub mod broker;
pub mod migration;
