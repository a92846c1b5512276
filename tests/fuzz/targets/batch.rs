//! See `dledger::fuzzing::batch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dledger::fuzzing::batch(input));
