//! An embeddable replicated log.

mod batch;
mod builder;
mod dledger;
mod engine;
mod entry;
mod error;
mod future;
mod message;
mod replica;
mod role;
mod sequencer;
pub mod storage;
mod threads;
pub mod transport;
mod watermark;

pub use builder::{Builder, FlushPolicy};
pub use dledger::{Cursor, DLedger, Tail};
pub use entry::{Entry, NodeId};
pub use error::{AppendError, BarrierError, OpenError, ReadError, ShutdownError, TransferError};
pub use future::{AppendFuture, Appended};
pub use role::{Member, Membership, Role, Status};
