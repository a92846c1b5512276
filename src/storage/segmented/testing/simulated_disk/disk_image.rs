//! The contents of a simulated disk: for every file what a reader sees, what is certain to survive
//! a crash, and what is in between.
//!
//! # What a crash may leave
//!
//! Each of these is a [`UnsyncedChange`], and every combination of their outcomes is a legal state
//! after a crash:
//!
//! - A sector of 512 bytes that was written and not synced: as last synced, or as left by any write
//!   since. (The kernel writes pages back at any time.) A sector is written as a whole or not at
//!   all; [`settle`](DiskImage::settle) can tear some between two bytes.
//! - The length of a file that was changed and not synced: any that it had since the last sync.
//!   What lies behind the length is gone.
//! - A file that was created, renamed or removed without a sync of the directory: each change took
//!   place or did not, independent of the others. A rename is one change: the file has the old name
//!   or the new one, never both and never none.
//!
//! ext4 and xfs keep changes of names in order, so they leave a subset of this; btrfs, which logs
//! single files, does not. Syncing a file does not sync its name, and syncing the directory does
//! not sync the bytes of its files.
//!
//! Cloning an image costs a few pointers per file, so that thousands of crash states can be made
//! from one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::rng::Rng;

pub(crate) const SECTOR_BYTES: usize = 512;
/// The unit of allocation.
pub(crate) const BLOCK_BYTES: u64 = 4096;
/// At most so many unsynced versions of one sector are kept; the oldest are dropped first.
const VERSIONS_MAX: usize = 16;

/// The bytes of a sector. `None`: all zeros, which costs nothing.
type Sector = Option<Arc<[u8; SECTOR_BYTES]>>;

pub(super) type FileId = u64;

/// The bytes of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) bytes: u64,
    sectors: BTreeMap<u64, Arc<[u8; SECTOR_BYTES]>>,
}

impl Image {
    fn sector(&self, number: u64) -> Sector {
        self.sectors.get(&number).cloned()
    }

    fn put(&mut self, number: u64, sector: Sector) {
        match sector {
            Some(sector) => self.sectors.insert(number, sector),
            None => self.sectors.remove(&number),
        };
    }

    fn cut(&mut self, bytes: u64) {
        self.bytes = bytes;
        self.sectors.split_off(&bytes.div_ceil(SECTOR_BYTES as u64));
        let inside = (bytes % SECTOR_BYTES as u64) as usize;
        if inside > 0
            && let Some(last) = self.sectors.get_mut(&(bytes / SECTOR_BYTES as u64))
        {
            Arc::make_mut(last)[inside..].fill(0);
        }
    }

    /// Copies bytes from `offset` on; returns how many.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let count = self.bytes.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..count];
        buffer.fill(0);
        let end = offset + count as u64;
        for (number, sector) in
            self.sectors.range(offset / SECTOR_BYTES as u64..end.div_ceil(SECTOR_BYTES as u64))
        {
            let start = number * SECTOR_BYTES as u64;
            let (from, to) = (start.max(offset), (start + SECTOR_BYTES as u64).min(end));
            buffer[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&sector[(from - start) as usize..(to - start) as usize]);
        }
        count
    }
}

/// One file, with or without a name.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// What readers see.
    pub(super) live: Image,
    /// What was synced.
    durable: Image,
    /// The versions of each sector since then, oldest first.
    versions: BTreeMap<u64, Vec<Sector>>,
    /// The lengths of the file since then, oldest first.
    lengths: Vec<u64>,
    /// How far blocks are allocated.
    pub(super) allocated: u64,
    /// Held while the file is open or mapped.
    pub(super) open: Arc<()>,
}

impl Node {
    pub(super) fn write(&mut self, data: &[u8], offset: u64) {
        let end = offset + data.len() as u64;
        self.set_length(self.live.bytes.max(end));
        let mut at = offset;
        while at < end {
            let number = at / SECTOR_BYTES as u64;
            let start = number * SECTOR_BYTES as u64;
            let to = (start + SECTOR_BYTES as u64).min(end);
            self.write_in_sector(
                number,
                (at - start) as usize,
                &data[(at - offset) as usize..(to - offset) as usize],
            );
            at = to;
        }
    }

    fn write_in_sector(&mut self, number: u64, at: usize, data: &[u8]) {
        let old = self.live.sector(number);
        let old_bytes = old.as_ref().map_or(&[0; SECTOR_BYTES], |sector| sector);
        let new = if old_bytes[at..at + data.len()] == *data {
            old
        } else {
            let mut bytes = *old_bytes;
            bytes[at..at + data.len()].copy_from_slice(data);
            (bytes != [0; SECTOR_BYTES]).then(|| Arc::new(bytes))
        };
        // Compared with what the disk will have, not with what readers see: the two differ after a
        // failed sync.
        let newest = self
            .versions
            .get(&number)
            .and_then(|versions| versions.last().cloned())
            .unwrap_or_else(|| self.durable.sector(number));
        if newest != new {
            let versions = self.versions.entry(number).or_default();
            if versions.len() == VERSIONS_MAX {
                versions.remove(0);
            }
            versions.push(new.clone());
        }
        self.live.put(number, new);
    }

    pub(super) fn set_length(&mut self, bytes: u64) {
        if bytes > self.live.bytes {
            self.live.bytes = bytes;
            self.lengths.push(bytes);
        }
        self.allocated = self.allocated.max(bytes.next_multiple_of(BLOCK_BYTES));
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.versions.is_empty() || !self.lengths.is_empty()
    }

    /// All that readers see is durable from here on.
    pub(super) fn sync(&mut self) {
        for (number, mut versions) in std::mem::take(&mut self.versions) {
            self.durable.put(number, versions.pop().flatten());
        }
        if let Some(bytes) = self.lengths.drain(..).next_back() {
            self.durable.bytes = bytes;
        }
    }

    /// As ext4 when a sync fails: some of it reached the disk, and all of it counts as clean from
    /// here on. No later sync reports it.
    pub(super) fn forget(&mut self, draws: &mut Rng) {
        let choices: Vec<u32> =
            self.outcomes().map(|(_, outcomes)| draws.below(u64::from(outcomes)) as u32).collect();
        self.settle(&choices, &mut None);
    }

    /// As under memory pressure: readers see what is on the disk, where nothing is waiting to be
    /// written.
    pub(super) fn evict(&mut self) {
        let mut seen = self.durable.clone();
        for (&number, versions) in &self.versions {
            seen.put(number, versions.last().cloned().flatten());
        }
        seen.bytes = self.lengths.last().copied().unwrap_or(seen.bytes);
        self.live = seen;
    }

    /// The unsynced changes: the sector, or `None` for the length; and in how many ways a crash may
    /// leave it.
    fn outcomes(&self) -> impl Iterator<Item = (Option<u64>, u32)> + '_ {
        let sectors = self
            .versions
            .iter()
            .map(|(&number, versions)| (Some(number), versions.len() as u32 + 1));
        let lengths = (!self.lengths.is_empty()).then_some((None, self.lengths.len() as u32 + 1));
        sectors.chain(lengths)
    }

    /// Makes the chosen outcomes durable, in the order of [`outcomes`](Node::outcomes), and drops
    /// the others.
    fn settle(&mut self, choices: &[u32], torn: &mut Option<&mut Rng>) {
        let versions = std::mem::take(&mut self.versions);
        let lengths = std::mem::take(&mut self.lengths);
        let (sector_choices, length_choice) = choices.split_at(versions.len());
        for ((number, versions), &choice) in versions.into_iter().zip(sector_choices) {
            let old = self.durable.sector(number);
            let outcome = |choice: u32| {
                if choice == 0 { old.clone() } else { versions[choice as usize - 1].clone() }
            };
            let mut chosen = outcome(choice);
            if let Some(draws) = torn
                && choice > 0
                && draws.chance(32)
            {
                chosen = tear(&outcome(choice - 1), &chosen, draws);
            }
            self.durable.put(number, chosen);
        }
        if let Some(&choice) = length_choice.first().filter(|&&choice| choice > 0) {
            self.durable.bytes = lengths[choice as usize - 1];
        }
        let bytes = self.durable.bytes;
        self.durable.cut(bytes);
    }
}

/// The power failed while `new` was written over `old`: the write stops somewhere in between.
fn tear(old: &Sector, new: &Sector, draws: &mut Rng) -> Sector {
    let at = draws.below(SECTOR_BYTES as u64 + 1) as usize;
    let whole = |sector: &Sector| sector.as_ref().map_or([0; SECTOR_BYTES], |sector| **sector);
    let mut torn = whole(old);
    torn[..at].copy_from_slice(&whole(new)[..at]);
    (torn != [0; SECTOR_BYTES]).then(|| Arc::new(torn))
}

/// A change of names: `file` gets the name `name`, or none.
#[derive(Clone, Debug)]
struct NameChange {
    file: FileId,
    name: Option<String>,
}

/// The names of files, in both directions.
#[derive(Clone, Debug, Default)]
struct Names {
    files: BTreeMap<String, FileId>,
    names: BTreeMap<FileId, String>,
}

impl Names {
    fn has(&self, file: FileId) -> bool {
        self.names.contains_key(&file)
    }

    /// Returns the file that had the name before, if another had it.
    fn apply(&mut self, naming: &NameChange) -> Option<FileId> {
        if let Some(name) = self.names.remove(&naming.file) {
            self.files.remove(&name);
        }
        let name = naming.name.as_ref()?;
        self.names.insert(naming.file, name.clone());
        let loser = self.files.insert(name.clone(), naming.file)?;
        self.names.remove(&loser);
        Some(loser)
    }
}

/// An unsynced change, and in how many ways a crash may leave it. Outcome 0: it never happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnsyncedChange {
    pub(crate) what: String,
    pub(crate) outcomes: u32,
}

/// Everything on the disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct DiskImage {
    files: BTreeMap<FileId, Arc<Node>>,
    names: Names,
    durable_names: Names,
    namings: Vec<NameChange>,
    /// Files without a name that may still be open.
    nameless: Vec<FileId>,
    made: u64,
}

impl DiskImage {
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.names.files.keys()
    }

    pub(super) fn find(&self, name: &str) -> Option<FileId> {
        self.names.files.get(name).copied()
    }

    pub(super) fn node(&self, file: FileId) -> &Node {
        &self.files[&file]
    }

    pub(super) fn node_mut(&mut self, file: FileId) -> &mut Node {
        Arc::make_mut(self.files.get_mut(&file).expect("an open file stays"))
    }

    pub(super) fn create(&mut self, name: &str) -> FileId {
        self.made += 1;
        self.files.insert(self.made, Arc::new(Node { open: Arc::default(), ..Node::default() }));
        self.rename(self.made, Some(name.to_owned()));
        self.made
    }

    pub(super) fn rename(&mut self, file: FileId, name: Option<String>) {
        let naming = NameChange { file, name };
        self.nameless.extend(self.names.apply(&naming));
        self.nameless.extend(naming.name.is_none().then_some(file));
        self.namings.push(naming);
    }

    pub(super) fn sync_names(&mut self) {
        for naming in self.namings.drain(..) {
            self.durable_names.apply(&naming);
        }
        self.drop_nameless();
    }

    /// A sync of the directory failed: some changes reached the disk, and none is retried.
    pub(super) fn forget_names(&mut self, draws: &mut Rng) {
        for naming in std::mem::take(&mut self.namings) {
            if draws.chance(128) {
                self.durable_names.apply(&naming);
            }
        }
    }

    /// Frees files that can never have a name again and are not open.
    fn drop_nameless(&mut self) {
        let DiskImage { files, names, durable_names, nameless, .. } = self;
        nameless.retain(|file| {
            let is_open = files.get(file).is_some_and(|node| Arc::strong_count(&node.open) > 1);
            let stays = is_open || names.has(*file) || durable_names.has(*file);
            if !stays {
                files.remove(file);
            }
            stays
        });
    }

    /// The bytes in use, by files that have a name or are open.
    pub(super) fn taken(&self) -> u64 {
        let counts =
            |file: &FileId, node: &Node| Arc::strong_count(&node.open) > 1 || self.names.has(*file);
        self.files
            .iter()
            .filter(|(file, node)| counts(file, node))
            .map(|(_, node)| node.allocated)
            .sum()
    }

    /// The files that may have a name after a crash.
    fn survivors(&self) -> Vec<FileId> {
        let named = self
            .durable_names
            .names
            .keys()
            .copied()
            .chain(self.namings.iter().map(|naming| naming.file));
        let mut survivors: Vec<FileId> = named.collect();
        survivors.sort_unstable();
        survivors.dedup();
        survivors
    }

    /// The unsynced changes that a crash at this moment would decide.
    pub(crate) fn unsynced(&self) -> Vec<UnsyncedChange> {
        let mut units: Vec<UnsyncedChange> = self
            .namings
            .iter()
            .map(|naming| UnsyncedChange { what: format!("{naming:?}"), outcomes: 2 })
            .collect();
        for file in self.survivors() {
            units.extend(self.node(file).outcomes().map(|(sector, outcomes)| UnsyncedChange {
                what: format!("file {file}, sector {sector:?}"),
                outcomes,
            }));
        }
        units
    }

    /// The disk after a crash that decides each of [`unsynced`](DiskImage::unsynced) by `choices`,
    /// each below the number of outcomes. With `torn`, some of the sectors are torn instead.
    pub(crate) fn settle(&self, choices: &[u32], mut torn: Option<&mut Rng>) -> DiskImage {
        let (mut left, rest) = (DiskImage { made: self.made, ..DiskImage::default() }, choices);
        let (name_choices, mut rest) = rest.split_at(self.namings.len());
        left.durable_names = self.durable_names.clone();
        for (naming, _) in self.namings.iter().zip(name_choices).filter(|(_, choice)| **choice > 0)
        {
            left.durable_names.apply(naming);
        }
        for file in self.survivors() {
            let node = &self.files[&file];
            let (choices, others) = rest.split_at(node.outcomes().count());
            rest = others;
            if left.durable_names.has(file) {
                left.files.insert(file, settled(node, choices, &mut torn));
            }
        }
        left.names = left.durable_names.clone();
        left
    }

    /// Drops the cache of every file.
    pub(super) fn evict(&mut self) {
        self.files.values_mut().for_each(|node| Arc::make_mut(node).evict());
    }

    /// Flips one bit of a file, on the disk and for all readers.
    pub(super) fn flip(&mut self, file: FileId, bit: u64) {
        let node = self.node_mut(file);
        let (number, inside) =
            (bit / 8 / SECTOR_BYTES as u64, (bit / 8 % SECTOR_BYTES as u64) as usize);
        for image in [&mut node.live, &mut node.durable] {
            let mut bytes = image.sector(number).map_or([0; SECTOR_BYTES], |sector| *sector);
            bytes[inside] ^= 1 << (bit % 8);
            image.put(number, Some(Arc::new(bytes)));
        }
    }
}

/// A file after a crash. One without unsynced changes is shared, not copied.
fn settled(node: &Arc<Node>, choices: &[u32], torn: &mut Option<&mut Rng>) -> Arc<Node> {
    let mut left = Node::clone(node);
    left.settle(choices, torn);
    left.live = left.durable.clone();
    left.open = Arc::default();
    left.allocated = left.live.bytes.next_multiple_of(BLOCK_BYTES);
    Arc::new(left)
}
