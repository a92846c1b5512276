//! Bugs on purpose, to see that tests and simulations find them: `tests/planted.sh` and
//! `tests/planted_sim.sh` switch on one after the other. In every other build [`planted!`] is the
//! constant `false`, and leaves nothing behind.

/// Whether the bug of this name is switched on. Built with `--cfg planted`, the environment
/// variable `DLEDGER_PLANTED` says which one is.
#[cfg(planted)]
macro_rules! planted {
    ($name:literal) => {
        $crate::planted::is_on($name)
    };
}

/// Whether the bug of this name is switched on: none is in this build.
#[cfg(not(planted))]
macro_rules! planted {
    ($name:literal) => {
        false
    };
}

#[cfg(planted)]
pub(crate) fn is_on(name: &str) -> bool {
    static ON: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| std::env::var("DLEDGER_PLANTED").unwrap_or_default());
    *ON == name
}
