//! What one group of several asks of the hosts that its nodes run in.

use super::event::CrashKind;
use super::monitor::Trigger;
use crate::transport::Message;

/// What of a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// This group alone.
    Group,
    /// All of it.
    Process,
}

/// The outcome of the events of one group, for the hosts: in order, each with its node.
#[derive(Default)]
pub(super) struct Hosted {
    pub(super) sent: Vec<(usize, Message)>,
    pub(super) exits: Vec<(usize, CrashKind, Ended)>,
    pub(super) triggers: Vec<(Trigger, usize)>,
}
