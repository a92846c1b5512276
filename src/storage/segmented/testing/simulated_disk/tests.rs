//! What a crash, a failed sync, a full disk and a misdirected write do to the simulated disk.

use std::collections::BTreeSet;

use super::*;

fn write(file: &SimulatedFile, data: &[u8], offset: u64) {
    assert_eq!(file.write_at(&[IoSlice::new(data)], offset).unwrap(), data.len());
}

fn contents(disk: &SimulatedDisk, name: &str) -> Option<Vec<u8>> {
    let file = disk.open(name).ok()?;
    let mut bytes = vec![0; file.size().unwrap() as usize];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    Some(bytes)
}

/// A disk with a synced file `a` of two sectors of 1.
fn disk() -> (SimulatedDisk, SimulatedFile) {
    let disk = SimulatedDisk::new(1);
    let file = disk.create("a").unwrap();
    write(&file, &[1; 1024], 0);
    file.sync_data().unwrap();
    disk.sync_dir().unwrap();
    (disk, file)
}

/// The disk after every combination of outcomes.
fn states<T: Ord>(disk: &SimulatedDisk, look: impl Fn(&SimulatedDisk) -> T) -> BTreeSet<T> {
    let image = disk.image();
    let units = image.unsynced();
    let count: u32 = units.iter().map(|unit| unit.outcomes).product();
    let state = |mut number: u32| {
        let digit = |outcomes| {
            let choice = number % outcomes;
            number /= outcomes;
            choice
        };
        look(&SimulatedDisk::with(
            image.settle(
                &units.iter().map(|unit| unit.outcomes).map(digit).collect::<Vec<_>>(),
                None,
            ),
            0,
        ))
    };
    (0..count).map(state).collect()
}

#[test]
fn what_was_synced_is_all_that_a_crash_is_sure_to_leave() {
    let (disk, file) = disk();
    write(&file, &[2; 10], 0);
    assert_eq!(contents(&disk, "a").unwrap()[..12], [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1]);
    let left = disk.crash_keeping_nothing();
    assert_eq!(contents(&left, "a").unwrap(), [1; 1024]);
}

#[test]
fn every_sector_is_decided_by_itself_and_may_be_as_any_write_left_it() {
    let (disk, file) = disk();
    write(&file, &[2; 1024], 0);
    write(&file, &[3; 512], 0);
    let found = states(&disk, |disk| {
        contents(disk, "a").map(|bytes| (bytes[0], bytes[511], bytes[512])).unwrap()
    });
    let wanted =
        [1, 2, 3].into_iter().flat_map(|first| [1, 2].map(|second| (first, first, second)));
    assert_eq!(found, wanted.collect());
}

#[test]
fn a_length_is_decided_apart_from_the_bytes() {
    let (disk, file) = disk();
    write(&file, &[2; 512], 1024);
    let found = states(&disk, |disk| {
        contents(disk, "a").map(|bytes| (bytes.len(), bytes.last().copied())).unwrap()
    });
    assert_eq!(found, [(1024, Some(1)), (1536, Some(0)), (1536, Some(2))].into());
}

#[test]
fn names_are_decided_apart_from_bytes_and_a_file_never_has_two() {
    let (disk, file) = disk();
    write(&file, &[2; 1024], 0);
    file.sync_data().unwrap();
    disk.rename("a", "b").unwrap();
    disk.create("c").unwrap().sync_data().unwrap();
    let names = |disk: &SimulatedDisk| disk.list().unwrap().concat();
    let found = states(&disk, |disk| {
        (names(disk), contents(disk, "a").or(contents(disk, "b")).unwrap()[0])
    });
    assert_eq!(found, ["a", "b", "ac", "bc"].map(|names| (names.to_owned(), 2)).into());
}

#[test]
fn a_file_that_replaced_another_leaves_one_of_the_two() {
    let (disk, _) = disk();
    let new = disk.create("new").unwrap();
    write(&new, &[9; 8], 0);
    new.sync_data().unwrap();
    disk.sync_dir().unwrap();
    disk.rename("new", "a").unwrap();
    let found = states(&disk, |disk| (disk.list().unwrap(), contents(disk, "a").unwrap()[0]));
    assert_eq!(
        found,
        [(vec!["a".to_owned(), "new".to_owned()], 1), (vec!["a".to_owned()], 9)].into()
    );
}

#[test]
fn a_failed_sync_forgets_and_the_next_one_succeeds() {
    let lost = |seed| {
        let disk = SimulatedDisk::new(seed);
        let file = disk.create("a").unwrap();
        file.allocate(4096).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir().unwrap();
        write(&file, &[2; 4096], 0);
        disk.plan(CallFault {
            on: CallKind::Sync,
            after: 0,
            times: 1,
            then: CallFailure::Error(io::ErrorKind::Other),
        });
        assert!(file.sync_data().is_err());
        assert!(file.sync_data().is_ok(), "it is not reported again");
        assert_eq!(contents(&disk, "a").unwrap(), [2; 4096], "the cache still shows it");
        disk.evict();
        let seen = contents(&disk, "a").unwrap();
        assert_eq!(contents(&disk.crash(), "a").unwrap(), seen, "nothing waits to be written");
        seen.iter().filter(|&&byte| byte == 0).count()
    };
    assert!((0..20).any(|seed| lost(seed) > 0) && (0..20).any(|seed| lost(seed) < 4096));
}

#[test]
fn a_full_disk_takes_what_fits_and_then_nothing() {
    let (disk, file) = disk();
    disk.set_room(Some(3 * 4096));
    assert!(disk.create("b").unwrap().allocate(3 * 4096).is_err());
    disk.remove("b").unwrap();
    assert_eq!(file.write_at(&[IoSlice::new(&[2; 9 * 4096])], 4096).unwrap(), 2 * 4096);
    assert_eq!(
        file.write_at(&[IoSlice::new(&[2])], 3 * 4096).unwrap_err().kind(),
        io::ErrorKind::StorageFull
    );
    write(&file, &[3; 4096], 4096);
    disk.set_room(None);
    write(&file, &[2], 3 * 4096);
}

#[test]
fn maps_outlive_the_name_the_machine_and_the_crash() {
    let (disk, file) = disk();
    let map = file.map().unwrap();
    write(&file, &[7], 0);
    disk.remove("a").unwrap();
    disk.sync_dir().unwrap();
    assert_eq!(map.slice(0, 2).unwrap()[..], [7, 1]);
    assert!(map.slice(1024, 1).is_none());
    let _left = disk.crash();
    assert_eq!(map.slice(0, 2).unwrap()[..], [7, 1]);
    assert!(
        file.write_at(&[IoSlice::new(&[1])], 0).is_err()
            && disk.create("b").is_err()
            && disk.lock().is_err()
    );
    assert_eq!(file.size().unwrap(), 1024);
}

#[test]
fn a_file_without_a_name_goes_with_the_last_who_has_it_open() {
    let (disk, file) = disk();
    disk.remove("a").unwrap();
    disk.sync_dir().unwrap();
    assert_eq!(disk.taken(), 4096);
    drop(file);
    assert_eq!(disk.taken(), 0);
}

#[test]
fn the_same_seed_leaves_the_same_disk() {
    let left = |seed| {
        let disk = SimulatedDisk::new(seed);
        let file = disk.create("a").unwrap();
        file.allocate(40_000).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir().unwrap();
        (0..40).for_each(|n| write(&file, &[n as u8; 700], n * 600));
        contents(&disk.crash(), "a")
    };
    assert_eq!(left(5), left(5));
    assert_ne!(left(5), left(6));
}

#[test]
fn the_planned_call_fails_and_no_other() {
    let (disk, file) = disk();
    disk.plan(CallFault { on: CallKind::Write, after: 1, times: 2, then: CallFailure::Short });
    let written: Vec<_> =
        (0..4).map(|_| file.write_at(&[IoSlice::new(&[2; 10])], 0).unwrap()).collect();
    assert_eq!(written, [10, 5, 5, 10]);
    disk.plan(CallFault {
        on: CallKind::Write,
        after: 0,
        times: 1,
        then: CallFailure::Astray(512),
    });
    write(&file, &[9], 0);
    assert_eq!(contents(&disk, "a").unwrap()[512], 9);
}

#[test]
fn zeros_take_no_memory_and_leave_nothing_to_decide_but_the_length() {
    let disk = SimulatedDisk::new(1);
    let file = disk.create("a").unwrap();
    write(&file, &vec![0; 1 << 20], 0);
    assert_eq!(disk.image().unsynced().len(), 2, "name and length");
    write(&file, &[1], 5);
    write(&file, &[0], 5);
    assert_eq!(disk.image().unsynced().len(), 3, "the byte was there for a while");
}
