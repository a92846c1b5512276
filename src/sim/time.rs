//! Units of virtual time.

/// Microseconds of virtual time.
pub(crate) type Micros = u64;

/// A millisecond.
pub(crate) const MS: Micros = 1_000;
