//! A message between two nodes of a group: its bytes, its validation, and what a transport sees.
//!
//! A message that arrives is validated twice before Raft sees it. [`Message::decode`] checks the
//! bytes alone: their format, and that they cause no disproportionate allocation. `Message::check`
//! checks the content against the state of the replica: could a correct peer have sent it? Raft
//! itself trusts its input.

mod beat;
mod check;
mod codec;
mod content;
mod describe;
mod raft_codec;
mod repair;
#[cfg(feature = "sim")]
mod sender_claim;
mod sleep;
mod testing;
mod wire;

pub(crate) use self::beat::{Beat, BeatKind};
pub(crate) use self::check::{MessageRejection, ReplicaView};
pub use self::content::Message;
pub(crate) use self::describe::Kind;
pub(crate) use self::repair::{
    BATCHES_MAX, FetchError, FetchRequest, FetchResponse, NoState, PeerState, RepairBody,
    RepairMessage,
};
#[cfg(feature = "sim")]
pub(crate) use self::sender_claim::SenderClaim;
pub(crate) use self::sleep::{SleepKind, SleepMessage, SleepPoint};
#[cfg(any(test, fuzzing))]
pub(crate) use self::testing::fuzzing;
pub use self::wire::MessageError;
