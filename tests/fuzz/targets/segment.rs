//! See `dledger::fuzzing::segment`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dledger::fuzzing::segment(input));
