//! See `dledger::fuzzing::replica`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dledger::fuzzing::replica(input));
