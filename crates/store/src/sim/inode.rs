//! A file of the simulated disk: what a process sees, what is durable, and what is in between.

use std::collections::BTreeMap;

use super::random::Random;

const SECTOR: usize = 512;
/// How many of a sector's unsynced versions are remembered; any of them can be the one that is kept.
const VERSIONS_MAX: usize = 4;

type Sector = [u8; SECTOR];

/// The bytes of a file.
#[derive(Debug, Default)]
pub(super) struct Inode {
    /// As a process sees them.
    bytes: Vec<u8>,
    /// As they are after a crash at the least.
    durable: Vec<u8>,
    /// Sectors written since the last sync, by number, in each version they had.
    unsynced: BTreeMap<usize, Vec<Sector>>,
}

impl Inode {
    /// A file that was synced.
    pub(super) fn durable(bytes: Vec<u8>) -> Inode {
        Inode { durable: bytes.clone(), bytes, unsynced: BTreeMap::new() }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn write(&mut self, position: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = position + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[position..end].copy_from_slice(bytes);
        for number in position / SECTOR..end.div_ceil(SECTOR) {
            let versions = self.unsynced.entry(number).or_default();
            if versions.len() == VERSIONS_MAX {
                versions.remove(0);
            }
            versions.push(sector(&self.bytes, number));
        }
    }

    pub(super) fn sync(&mut self) {
        self.durable.resize(self.bytes.len(), 0);
        for (number, _) in std::mem::take(&mut self.unsynced) {
            put(&mut self.durable, number, &sector(&self.bytes, number));
        }
    }

    /// A sync failed: the system forgets that these sectors were never written.
    pub(super) fn doom(&mut self) {
        self.unsynced.clear();
    }

    /// Keeps some of what was not synced.
    pub(super) fn crash(&mut self, random: &mut Random) {
        let keep = random.below(5);
        self.durable.resize(self.surviving_len(random), 0);
        for (number, versions) in std::mem::take(&mut self.unsynced) {
            if random.below(4) < keep {
                let mut kept = versions[random.index(versions.len())];
                if random.below(16) == 0 {
                    let torn = random.index(SECTOR / 8) * 8;
                    kept[torn..].copy_from_slice(&sector(&self.durable, number)[torn..]);
                }
                put(&mut self.durable, number, &kept);
            }
        }
        self.bytes = self.durable.clone();
    }

    /// The old length, the new one, or one in between.
    fn surviving_len(&self, random: &mut Random) -> usize {
        let (old, new) = (self.durable.len(), self.bytes.len());
        match random.below(3) {
            0 => old,
            1 => new,
            _ => (old + random.index(new - old + 1)).div_ceil(SECTOR).saturating_mul(SECTOR).clamp(old, new),
        }
    }
}

/// A sector of `bytes`, filled up with zeros at the end of the file.
fn sector(bytes: &[u8], number: usize) -> Sector {
    let bytes = bytes.get(number * SECTOR..).unwrap_or_default();
    let mut sector = [0; SECTOR];
    let len = bytes.len().min(SECTOR);
    sector[..len].copy_from_slice(&bytes[..len]);
    sector
}

/// Replaces a sector of `bytes`, as far as they go.
fn put(bytes: &mut [u8], number: usize, sector: &Sector) {
    let bytes = bytes.get_mut(number * SECTOR..).unwrap_or_default();
    let len = bytes.len().min(SECTOR);
    bytes[..len].copy_from_slice(&sector[..len]);
}
