//! Peers whose log begins after the missing batches, or ends before them.

use super::*;

#[test]
fn what_peers_have_purged_need_not_be_kept_either() {
    let all = run(&LogPoint::INITIAL, &[1; 6], 1);
    let batch_map = BatchMap::new(&all, &[4, 5], &[]);
    let purged_to = |raft_index: usize| {
        let mut mending = repair(&batch_map, 1, 2);
        let (to, _) = asked(&mut mending).unwrap();
        mending.handle_response(
            node(to),
            FetchResponse {
                number: mending.number - 1,
                commit: 7,
                batches: Err(FetchError::Purged(batch_map.points[raft_index - 2])),
            },
        )
    };
    assert_eq!(purged_to(3), None, "what is missing lies behind");
    assert_eq!(purged_to(4), Some(RepairStep::TruncateHead(batch_map.points[2])), "a part of it");
    assert_eq!(purged_to(5), Some(RepairStep::TruncateHead(batch_map.points[3])));
    assert_eq!(purged_to(6), Some(RepairStep::TruncateHead(batch_map.points[4])));
    let purged = |commit: u64, base: LogPoint| {
        let mut mending = repair(&batch_map, 1, commit);
        let (to, _) = asked(&mut mending).unwrap();
        mending.handle_response(
            node(to),
            FetchResponse {
                number: mending.number - 1,
                commit: 7,
                batches: Err(FetchError::Purged(base)),
            },
        )
    };
    let base = batch_map.points[2];
    assert_eq!(
        purged(6, base),
        Some(RepairStep::TruncateHead(base)),
        "though more is known to be committed here"
    );
    assert_eq!(
        purged(3, LogPoint { next_index: 0, ..base }),
        None,
        "a base in front of what is committed that lies behind it"
    );
    assert_eq!(purged(3, LogPoint { next_position: 0, ..base }), None);
}

#[test]
fn a_base_in_front_of_the_damage_tells_whether_the_logs_have_parted_before() {
    let all = run(&LogPoint::INITIAL, &[1; 9], 1);
    let batch_map = BatchMap::new(&all, &[10], &[]);
    let probed = |base: LogPoint| {
        let mut mending = repair(&batch_map, 2, 1);
        for (start, fetch_error) in [(10, FetchError::NotReached), (2, FetchError::Purged(base))] {
            let (to, raft_indexes) = asked(&mut mending).unwrap();
            assert_eq!(raft_indexes.start, start);
            if let Some(repair_step) = mending.handle_response(
                node(to),
                FetchResponse { number: mending.number - 1, commit: 9, batches: Err(fetch_error) },
            ) {
                return Err(repair_step);
            }
        }
        Ok(asked(&mut mending).unwrap().1.start)
    };
    let same = batch_map.points[4];
    assert_eq!(probed(same), Ok(same.raft_index + 1), "not up to there");
    let other = LogPoint { chain: same.chain ^ 1, ..same };
    assert_eq!(probed(other), Err(RepairStep::TruncateHead(other)));
}

/// Seed 2023636 once ended with a node that stayed damaged for ever: it had led a term before, and
/// of its end that was never committed the first half was filled in with what its group had there
/// instead, while the other half could not be read, and no peer had any.
#[test]
fn what_a_leader_does_not_have_was_never_committed() {
    let all = run(&LogPoint::INITIAL, &[1, 1, 5, 5, 5, 5], 1);
    let batch_map = BatchMap::new(&all, &[6, 7], &[]);
    let (theirs, cut) = (&all[..4], Some(RepairStep::Replace(all[3..4].to_vec())));
    assert_eq!(given_by(&mut repair(&batch_map, 5, 2), theirs, 2, Some(5)), cut);
    assert_eq!(given_by(&mut repair(&batch_map, 4, 5), theirs, 5, Some(5)), cut);
    assert_eq!(given_by(&mut repair(&batch_map, 5, 2), theirs, 5, None), None, "it does not lead");
    assert_eq!(
        given_by(&mut repair(&batch_map, 6, 2), theirs, 5, Some(5)),
        None,
        "its term is over"
    );
    assert_eq!(
        given_by(&mut repair(&batch_map, 5, 2), theirs, 2, Some(6)),
        None,
        "it has sent more than it has written"
    );
    assert_eq!(
        given_by(&mut repair(&batch_map, 5, 2), &theirs[..1], 2, Some(2)),
        None,
        "less than is intact here, and of an older term"
    );
    let other = [&all[..2], &run(&batch_map.points[1], &[5, 5], 2)].concat();
    let mut parted = repair(&batch_map, 5, 2);
    assert_eq!(given_by(&mut parted, &other, 5, Some(5)), None, "its log is another");
    assert_eq!(
        asked(&mut parted).map(|asked| asked.1.start),
        Some(3),
        "so where they part is looked for"
    );

    let mut late = repair(&batch_map, 5, 2);
    let (to, raft_indexes) = asked(&mut late).unwrap();
    let old = serve_fetch(
        &*BatchMap::new(theirs, &[], &[]),
        2,
        Some(5),
        &FetchRequest { number: late.number - 2, raft_indexes, bytes_max: 1 },
        1,
    );
    assert_eq!(
        late.handle_response(node(to), old),
        None,
        "that was so before this node had the batches"
    );
}
