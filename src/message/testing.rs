//! Messages for tests: samples for the transport suite, forged and malformed messages, and the
//! tests of [`Message::check`](super::Message).

#[cfg(test)]
mod forge;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod known_panics;
#[cfg(test)]
mod legal_traffic;
mod sample;
