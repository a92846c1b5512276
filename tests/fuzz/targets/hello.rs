//! See `dledger::fuzzing::hello`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dledger::fuzzing::hello(input));
