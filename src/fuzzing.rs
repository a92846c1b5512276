//! Where bytes from outside come in, as functions that take any bytes and find nothing wrong with
//! the code: the targets of `tests/fuzz`.
//!
//! Each target feeds its bytes to a decoder twice: as they are, and with their checksums put right,
//! since what lies behind a checksum is never reached by chance. The corpus under `tests/corpus` is
//! replayed by `cargo test`.

pub use crate::batch::fuzzing::batch;
pub use crate::message::fuzzing::message;
pub use crate::replica::fuzzing::replica;
pub use crate::storage::fuzzing::{page, segment};
pub use crate::transport::fuzzing::frame;
pub use crate::transport::fuzzing_of_hellos::hello;

/// The bytes of an input, taken from the front. Gives zeros once they are used up.
pub(crate) struct FuzzInput<'a>(pub(crate) &'a [u8]);

impl<'a> FuzzInput<'a> {
    pub(crate) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from(self.byte()) | u16::from(self.byte()) << 8
    }

    pub(crate) fn u64(&mut self) -> u64 {
        let mut field = [0; 8];
        let given = self.bytes(8);
        field[..given.len()].copy_from_slice(given);
        u64::from_le_bytes(field)
    }

    /// As many bytes as there are, up to `count`.
    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::{batch, message, replica, storage, transport};

    type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

    const TARGETS: [Target; 7] = [
        ("batch", batch, batch::fuzzing::seeds),
        ("page", page, storage::fuzzing::seeds_of_pages),
        ("segment", segment, storage::fuzzing::seeds_of_segments),
        ("frame", frame, transport::fuzzing::seeds),
        ("hello", hello, transport::fuzzing_of_hellos::seeds),
        ("message", message, message::fuzzing::seeds),
        ("replica", replica, replica::fuzzing::seeds),
    ];

    fn corpus(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name)
    }

    #[test]
    fn the_corpus_is_survived() {
        for (name, target, seeds) in TARGETS {
            let files = std::fs::read_dir(corpus(name))
                .unwrap()
                .map(|file| std::fs::read(file.unwrap().path()).unwrap());
            let inputs: Vec<_> = files.chain(seeds()).collect();
            assert!(inputs.len() > 10, "the corpus of {name} is missing");
            inputs.iter().for_each(|input| target(input));
        }
    }

    #[test]
    #[ignore = "writes into tests/corpus what fuzzing begins with"]
    fn seeds_are_planted() {
        for (name, _, seeds) in TARGETS {
            for (number, seed) in seeds().into_iter().enumerate() {
                std::fs::write(corpus(name).join(format!("seed-{number:02}")), seed).unwrap();
            }
        }
    }
}
