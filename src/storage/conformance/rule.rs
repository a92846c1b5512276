//! Rules of the contract, as the suite names them.

use std::fmt;

/// A rule of the contract.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    Accepted,
    Prefix,
    HardState,
    Unchanged,
    FailedSync,
    Full,
    Open,
    Append,
    Read,
    Purge,
    Reset,
    Peers,
    Complete,
    GroupUid,
    Segments,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::Accepted => {
                "rule 1 (an accepted change is readable when the call returns, and durable once a \
                 sync that began after it has returned)"
            }
            Rule::Prefix => {
                "rule 2 (a reopened log is a prefix of the appended batches, at least as long as \
                 the synced part)"
            }
            Rule::HardState => {
                "rule 3 (a reopened hard state is one that was saved, no older than the newest \
                 synced; its commit names no lost batch)"
            }
            Rule::Unchanged => "rule 4 (a batch, once read, never changes)",
            Rule::FailedSync => "rule 5 (a failed sync is final)",
            Rule::Full => {
                "rule 6 (a call that finds the disk full changes nothing, and may be repeated)"
            }
            Rule::Open => "the contract of `Storage::open`",
            Rule::Append => {
                "the contract of `Storage::append` (batches that continue the log are accepted, \
                 all or none)"
            }
            Rule::Read => "the contract of `LogReader`",
            Rule::Purge => {
                "the contract of `Storage::purge` (it keeps the entries from `index` on, and all \
                 beyond `commit`)"
            }
            Rule::Reset => "the contract of `Storage::reset` (nothing of the old log remains)",
            Rule::Peers => "the contract of `Storage::save_peer`",
            Rule::Complete => "the contract of `Storage::set_complete`",
            Rule::Segments => {
                "the contract of `Storage::segments` (the log without a gap, and no segment older \
                 than the time that has passed)"
            }
            Rule::GroupUid => "the contract of `Storage::save_group_uid`",
        })
    }
}
