//! See `dledger::fuzzing::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dledger::fuzzing::frame(input));
