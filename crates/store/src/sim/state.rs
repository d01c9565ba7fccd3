//! What a simulated disk remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::inode::Inode;
use super::random::Random;
use super::{Call, Fault};

#[derive(Debug, Default)]
pub(super) struct State {
    inodes: BTreeMap<u64, Inode>,
    inodes_made: u64,
    pub(super) dirs: BTreeSet<PathBuf>,
    pub(super) names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// What makes `names` of `durable_names`.
    changes: Vec<Change>,
    pub(super) counts: BTreeMap<Call, u64>,
    pub(super) plan: Option<Plan>,
    powerless: bool,
    /// Whether syncs do nothing.
    pub(super) lies: bool,
    /// How often the disk crashed or its process was killed.
    pub(super) epoch: u64,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Create { path: PathBuf, inode: u64 },
    Rename { from: PathBuf, to: PathBuf, inode: u64 },
    Remove { path: PathBuf, inode: u64 },
}

/// The fault of the `countdown`th call from now.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) countdown: u64,
    pub(super) only: Option<Call>,
    pub(super) fault: Fault,
}

impl State {
    pub(super) fn reset(&mut self) {
        self.epoch += 1;
        self.plan = None;
        self.powerless = false;
    }

    /// Keeps some of what was not synced.
    pub(super) fn crash(&mut self, random: &mut Random) {
        self.reset();
        // All or nothing of everything must be likely too.
        let keep = random.below(5);
        for change in std::mem::take(&mut self.changes) {
            if random.below(4) < keep {
                change.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
        let linked: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|inode, _| linked.contains(inode));
        for inode in self.inodes.values_mut() {
            inode.crash(random);
        }
    }

    /// Makes the changes of a directory durable.
    pub(super) fn sync_dir(&mut self, dir: &Path) {
        let changes = std::mem::take(&mut self.changes);
        for change in changes {
            if change.path().parent() == Some(dir) {
                change.apply(&mut self.durable_names);
            } else {
                self.changes.push(change);
            }
        }
    }

    /// Puts a durable file in the place of another or of none.
    pub(super) fn overwrite(&mut self, path: &Path, bytes: &[u8]) {
        let inode = self.names.get(path).copied().unwrap_or_else(|| self.make());
        self.inodes.insert(inode, Inode::durable(bytes.to_vec()));
        self.names.insert(path.to_owned(), inode);
        self.durable_names.insert(path.to_owned(), inode);
    }

    /// The number of a new, empty file.
    pub(super) fn make(&mut self) -> u64 {
        self.inodes_made += 1;
        self.inodes.insert(self.inodes_made, Inode::default());
        self.inodes_made
    }

    /// Counts a call and says what goes wrong with it.
    pub(super) fn enter(&mut self, call: Call) -> io::Result<Option<Fault>> {
        if self.powerless {
            return Err(io::Error::other("the power is off"));
        }
        *self.counts.entry(call).or_default() += 1;
        let Some(plan) = self.plan.as_mut().filter(|plan| plan.only.is_none_or(|only| only == call)) else {
            return Ok(None);
        };
        plan.countdown = plan.countdown.saturating_sub(1);
        if plan.countdown > 0 {
            return Ok(None);
        }
        let fault = self.plan.take().map(|plan| plan.fault);
        self.powerless = fault == Some(Fault::PowerCut);
        Ok(fault)
    }

    /// Like `enter`, for a call that happens whole, except that a power cut comes just after it.
    pub(super) fn enter_whole(&mut self, call: Call) -> io::Result<Option<io::Error>> {
        match self.enter(call)? {
            None => Ok(None),
            Some(Fault::PowerCut) => Ok(Some(Fault::PowerCut.error())),
            Some(fault) => Err(fault.error()),
        }
    }

    pub(super) fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes.entry(inode).or_default()
    }

    pub(super) fn inode_of(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }
}

impl Fault {
    pub(super) fn error(self) -> io::Error {
        match self {
            Fault::Io => io::Error::from_raw_os_error(5),
            Fault::Full | Fault::Short => io::ErrorKind::StorageFull.into(),
            Fault::PowerCut => io::Error::other("the power went"),
        }
    }
}

impl Change {
    fn path(&self) -> &Path {
        match self {
            Change::Create { path, .. } | Change::Remove { path, .. } => path,
            Change::Rename { to, .. } => to,
        }
    }

    /// Does the change, as far as the changes before it, some of which may be lost, allow.
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Change::Create { path, inode } => {
                names.insert(path.clone(), *inode);
            }
            Change::Rename { from, to, inode } => {
                unlink(names, from, *inode);
                names.insert(to.clone(), *inode);
            }
            Change::Remove { path, inode } => unlink(names, path, *inode),
        }
    }
}

fn unlink(names: &mut BTreeMap<PathBuf, u64>, path: &Path, inode: u64) {
    if names.get(path) == Some(&inode) {
        names.remove(path);
    }
}
