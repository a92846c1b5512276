//! The memory of this process, and its bound under attack.

const MIB: u64 = 1 << 20;

/// The bound of a node under attack by one hostile member and any number of unknown connections.
/// The sum of the limits in `src/transport/tcp`: messages that wait for the node; one inbound
/// message, its growth and its decoded form; the queue to that member; pending connections.
pub(crate) const BOUND_BYTES: u64 = 128 * MIB + (2 * 97 + 14) * MIB + 64 * MIB + MIB;

/// Anonymous memory, in bytes: without the pages of the mapped log.
pub(crate) fn anonymous() -> u64 {
    let Ok(pages) = std::fs::read_to_string("/proc/self/statm") else { return 0 };
    let field = |at: usize| {
        pages.split(' ').nth(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0)
    };
    (field(1) - field(2)) * 4096
}

/// Watches the growth from now on.
pub(crate) struct Growth(u64);

impl Growth {
    pub(crate) fn begin() -> Growth {
        Growth(anonymous())
    }

    #[track_caller]
    pub(crate) fn check(&self) -> u64 {
        let growth = anonymous().saturating_sub(self.0);
        assert!(
            growth <= BOUND_BYTES,
            "{} MiB more than before the attack, of {} at most",
            growth / MIB,
            BOUND_BYTES / MIB
        );
        growth / MIB
    }
}
