//! Every schedule of the one writer of records and a reader.

use std::sync::Arc;

use super::*;
use crate::primitives::thread;

/// Three chunks of places, for the first holds two in this build.
const COUNT: u64 = 8;

fn place(ordinal: u64) -> (u64, u64) {
    ((ordinal + 1) * format::ALIGN, ordinal + 7)
}

#[test]
fn what_is_published_is_found_where_it_lies() {
    loom::model(|| {
        let records: Arc<RecordIndex> = RecordIndex::new().into();
        let writer = thread::spawn({
            let records = records.clone();
            move || {
                for ordinal in 0..COUNT {
                    let (offset, bytes) = place(ordinal);
                    records.put(ordinal, offset, bytes as u32, ordinal + 1);
                    // Some one by one, some together.
                    if ordinal < 2 || ordinal % 3 == 1 {
                        records.publish(ordinal + 1);
                    }
                }
            }
        });
        let mut seen = 0;
        for _ in 0..2 {
            let len = records.len();
            assert!(len >= seen, "it shrinks");
            seen = len;
            for ordinal in 0..len {
                assert_eq!(records.location(ordinal), place(ordinal));
                assert_eq!(records.next_index(ordinal), ordinal + 1);
            }
        }
        writer.join().unwrap();
    });
}

/// The bytes of a record are in the file before its place is published: a reader that finds the
/// place finds the bytes.
#[test]
fn the_bytes_are_there_before_their_place() {
    loom::model(|| {
        let file = Arc::new((RecordIndex::new(), AtomicU64::new(0)));
        let writer = thread::spawn({
            let file = file.clone();
            move || {
                file.1.store(1, Ordering::Relaxed);
                file.0.put(0, format::ALIGN, 7, 1);
                file.0.publish(1);
            }
        });
        if file.0.len() == 1 {
            assert_eq!(file.1.load(Ordering::Relaxed), 1);
        }
        writer.join().unwrap();
    });
}
