//! Telling a process from its forked children.
//!
//! A child that `fork` makes has copies of everything but the threads: of descriptors and of the
//! locks on them, of mutexes that are never unlocked again, of channels without a receiving thread.
//! Before code waits on these, writes or unlocks, it asks whether this is still the process in
//! which it began.

use std::fmt;
use std::hint::black_box;
use std::io;

use arc_swap::ArcSwapOption;
use memmap2::{Mmap, MmapMut};

/// The process in which this was made. Cheap to copy, and to compare with the process that runs.
#[derive(Clone, Copy, Default)]
pub(crate) enum Home {
    /// It does not matter: a simulation is never forked.
    #[default]
    Anywhere,
    /// A page that the kernel wipes in every forked child.
    Page(&'static Mmap),
    /// Where the kernel wipes no pages.
    Id(u32),
}

/// What a forked child is told by every call that needs a thread, a lock or a file of the parent's.
pub(crate) const FORKED: &str = "this process is a forked child of the one that opened the \
     ledger, and has none of its threads: use the ledger there, or open it after the fork";

/// What the page begins with until it is wiped.
const INTACT: u8 = 1;

impl Home {
    /// The process that runs. `wiped` makes a page that the kernel wipes in every forked child, if
    /// it can.
    pub(crate) fn here(wiped: impl FnOnce() -> io::Result<MmapMut>) -> Home {
        // No lock: in a forked child it might never be unlocked. If two threads make one at the
        // same time, each is right. The pages stay: one for each process of a line of ancestors
        // that opened a log.
        static NEWEST: ArcSwapOption<Home> = ArcSwapOption::const_empty();
        if let Some(newest) = NEWEST.load_full().filter(|newest| newest.is_here()) {
            return *newest;
        }
        let home = Home::page(wiped).unwrap_or_else(|_| Home::Id(std::process::id()));
        NEWEST.store(Some(home.into()));
        home
    }

    fn page(wiped: impl FnOnce() -> io::Result<MmapMut>) -> io::Result<Home> {
        let mut page = wiped()?;
        page[0] = INTACT;
        Ok(Home::Page(Box::leak(Box::new(page.make_read_only()?))))
    }

    /// Whether that is the process that runs, and not a forked child of it. Takes about a
    /// nanosecond where there is a page.
    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        match self {
            Home::Anywhere => true,
            // The compiler is not to believe that what it read once is still there.
            Home::Page(page) => black_box(&page[..])[0] == INTACT,
            Home::Id(id) => *id == std::process::id(),
        }
    }
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Home").field("is_here", &self.is_here()).finish()
    }
}
