//! What tests, fuzzing and simulations need of the default storage: a disk that fails as asked, and
//! what is put to it.

#[cfg(test)]
mod crash_tests;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(any(test, feature = "sim"))]
pub(crate) mod simulated_disk;
