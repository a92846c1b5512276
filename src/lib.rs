//! An embeddable replicated log.

mod batch;
mod entry;
mod message;
mod role;
pub mod storage;
pub mod transport;

pub use entry::{Entry, NodeId};
pub use role::{Member, Membership, Role, Status};
