//! x
pub(crate) fn play(_: &[&str]) {}
