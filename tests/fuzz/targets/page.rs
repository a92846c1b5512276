//! See `dledger::fuzzing::page`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dledger::fuzzing::page(input));
