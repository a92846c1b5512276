//! Batches and hard states as transcripts show them.

use crate::batch::Batch;
use crate::storage::HardState;

pub(super) fn vote(hard_state: HardState) -> String {
    format!(
        "term {} vote {}",
        hard_state.term,
        hard_state.vote.map_or_else(|| "nobody".to_owned(), |node| node.to_string())
    )
}

pub(super) fn batches_text(batches: &[Batch]) -> String {
    if batches.is_empty() {
        return "nothing".to_owned();
    }
    let text = |batch: &Batch| {
        let payloads = payloads(batch);
        let what = match batch.group_uid() {
            Some(uid) => format!("group {uid}"),
            None if payloads.is_empty() => "control".to_owned(),
            None => payloads.join("+"),
        };
        format!("{}/t{} {what}", batch.raft_index(), batch.term())
    };
    batches.iter().map(text).collect::<Vec<_>>().join(", ")
}

pub(super) fn payloads(batch: &Batch) -> Vec<String> {
    let Some(first) = batch.first_index() else { return Vec::new() };
    let entry = |index| batch.entry(index).unwrap().unwrap();
    (first..first + u64::from(batch.count()))
        .map(|index| String::from_utf8_lossy(&entry(index)).into_owned())
        .collect()
}
