//! The spare keeps pace with the active segment.

use super::super::testing::simulated_disk::SimulatedDisk;
use super::super::tests::{owner, singles};
use super::super::{Create, DiskLog};
use super::*;
use crate::storage::Storage;

const SEGMENT_BYTES: u64 = 16 << 20;
const FIRST_SEGMENT_BYTES: u64 = 8 << 20;

/// A log that was just opened, and the result of `act` on its writer.
fn with_writer<T>(
    segment_bytes: u64,
    zero_fill: bool,
    begun: bool,
    act: impl FnOnce(&mut Writer<SimulatedDisk>) -> T,
) -> T {
    let options = SegmentOptions {
        segment_bytes,
        zero_fill,
        first_segment_bytes: FIRST_SEGMENT_BYTES,
        mapped_segments_max: 1,
        create: Create::New,
        ..SegmentOptions::small()
    };
    let mut log = DiskLog::on(SimulatedDisk::new(1), options);
    log.open(&owner()).unwrap();
    if begun {
        log.append(&singles(&mut LogPoint::INITIAL.clone(), 1, 1, 1), 1).unwrap();
    }
    act(log.writer().unwrap())
}

/// The next spare when the active segment is filled up to each of these offsets: its length, and
/// how much of it should be written.
fn orders(writer: &mut Writer<SimulatedDisk>, places: &[u64]) -> Vec<Option<(u64, u64)>> {
    let order = |at: &u64| {
        writer.tail.as_mut().expect("something was appended").at = *at;
        writer.next_spare().map(|order| (order.bytes, order.written))
    };
    places.iter().map(order).collect()
}

#[test]
fn the_first_segment_is_ordered_whole_and_no_larger_than_it_need_be() {
    let first = |bytes, zero_fill| {
        with_writer(bytes, zero_fill, false, |writer| {
            writer.next_spare().map(|order| (order.bytes, order.written))
        })
    };
    assert_eq!(first(SEGMENT_BYTES, true), Some((FIRST_SEGMENT_BYTES, FIRST_SEGMENT_BYTES)));
    assert_eq!(first(SEGMENT_BYTES, false), Some((FIRST_SEGMENT_BYTES, 0)));
    assert_eq!(first(1 << 20, true), Some((1 << 20, 1 << 20)));
}

#[test]
fn zeros_are_written_while_the_middle_of_the_segment_before_is_filled() {
    let eighth = FIRST_SEGMENT_BYTES / 8;
    let places = [0, eighth - 1, eighth, 4 * eighth, 7 * eighth - 6, 7 * eighth, 8 * eighth];
    with_writer(SEGMENT_BYTES, true, true, |writer| {
        writer.syncs = 1000;
        let twice = 2 * FIRST_SEGMENT_BYTES;
        let written =
            [0, twice / 2, twice - 16, twice, twice].map(|written| Some((twice, written)));
        assert_eq!(orders(writer, &places), [&[None, None], &written[..]].concat());
    });
    with_writer(FIRST_SEGMENT_BYTES, true, true, |writer| {
        writer.syncs = 1000;
        assert_eq!(
            orders(writer, &[4 * eighth]),
            [Some((FIRST_SEGMENT_BYTES, FIRST_SEGMENT_BYTES / 2))],
            "segments grow no further"
        );
    });
    with_writer(SEGMENT_BYTES, false, true, |writer| {
        writer.syncs = 1000;
        assert_eq!(orders(writer, &[4 * eighth]), [Some((2 * FIRST_SEGMENT_BYTES, 0))]);
    });
}

#[test]
fn no_zeros_are_written_where_much_is_written_between_two_syncs() {
    with_writer(SEGMENT_BYTES, true, true, |writer| {
        for (syncs, at) in [
            (0, LARGE_SYNCS_MIN * LARGE_SYNC_BYTES),
            (LARGE_SYNCS_MIN + 1, (LARGE_SYNCS_MIN + 1) * LARGE_SYNC_BYTES),
        ] {
            writer.syncs = syncs;
            let written = orders(writer, &[at - 1, at])
                .into_iter()
                .map(|order| order.expect("it is time").1 > 0);
            assert_eq!(written.collect::<Vec<_>>(), [true, false], "{syncs} syncs");
        }
    });
}
