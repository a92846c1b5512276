//! How much memory this process takes for itself, and how much more it may take under attack.

const MIB: u64 = 1 << 20;

/// What one hostile member and any number of strangers can make a node hold at once. From the
/// limits in `src/transport/tcp`: messages that wait for the node; one message on its way in, and
/// the room that is made for it, taken apart; what waits to go out to that member; the lobby.
pub(crate) const BOUND_BYTES: u64 = 128 * MIB + (2 * 97 + 14) * MIB + 64 * MIB + MIB;

/// Memory that is no file, in bytes: the log is mapped, and its pages are not counted.
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
