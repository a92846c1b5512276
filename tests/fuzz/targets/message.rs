//! See `dledger::fuzzing::message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dledger::fuzzing::message(input));
