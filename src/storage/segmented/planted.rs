//! Bugs on purpose, to see that the tests find them: `tests/planted.sh` switches on one after the other. In every other build
//! [`planted!`] is the constant `false`, and leaves nothing behind.

/// Whether the bug of this name is switched on. Built with `--cfg planted`, the environment variable `DLEDGER_PLANTED` says which one is.
#[cfg(planted)]
macro_rules! planted {
    ($name:literal) => {
        std::env::var("DLEDGER_PLANTED").is_ok_and(|name| name == $name)
    };
}

/// Whether the bug of this name is switched on: none is in this build.
#[cfg(not(planted))]
macro_rules! planted {
    ($name:literal) => {
        false
    };
}
