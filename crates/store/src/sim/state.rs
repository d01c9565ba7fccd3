//! What a simulated disk remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::inode::Inode;
use super::random::Random;
use super::{Call, Fault, Planned};

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
    /// Bytes by [`Call::Write`], and by [`Call::Zero`].
    pub(super) written: [u64; 2],
    pub(super) plans: Vec<Planned>,
    /// Bytes of files that cannot be read.
    spoiled: Vec<(u64, Range<u64>)>,
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

/// What a call is about.
#[derive(Clone, Copy)]
pub(super) enum About<'a> {
    Path(&'a Path),
    Inode(u64),
}

impl State {
    pub(super) fn reset(&mut self) {
        self.epoch += 1;
        self.plans.clear();
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
    pub(super) fn enter(&mut self, call: Call, about: About<'_>) -> io::Result<Option<Fault>> {
        if self.powerless {
            return Err(io::Error::other("the power is off"));
        }
        *self.counts.entry(call).or_default() += 1;
        let mut fault = None;
        let mut plans = std::mem::take(&mut self.plans);
        for plan in plans.iter_mut().filter(|plan| plan.only.is_none_or(|only| only == call)) {
            if !plan.below.as_deref().is_none_or(|dir| self.is_below(about, dir)) {
                continue;
            }
            plan.nth = plan.nth.saturating_sub(1);
            if plan.nth == 0 && plan.times > 0 {
                plan.times -= 1;
                fault = fault.or(Some(plan.fault));
            }
        }
        plans.retain(|plan| plan.times > 0);
        self.plans = plans;
        self.powerless = fault == Some(Fault::PowerCut);
        Ok(fault)
    }

    fn is_below(&self, about: About<'_>, dir: &Path) -> bool {
        match about {
            About::Path(path) => path.starts_with(dir),
            About::Inode(inode) => {
                self.names.iter().any(|(path, named)| *named == inode && path.starts_with(dir))
            }
        }
    }

    /// These bytes of a file cannot be read from now on.
    pub(super) fn spoil(&mut self, inode: u64, bytes: Range<u64>) {
        self.spoiled.push((inode, bytes));
    }

    pub(super) fn is_spoiled(&self, inode: u64, bytes: &Range<u64>) -> bool {
        let touches = |(of, spoiled): &(u64, Range<u64>)| {
            *of == inode && spoiled.start < bytes.end && bytes.start < spoiled.end
        };
        self.spoiled.iter().any(touches)
    }

    /// Like `enter`, for a call that happens whole, except that a power cut comes just after it.
    pub(super) fn enter_whole(&mut self, call: Call, path: &Path) -> io::Result<Option<io::Error>> {
        match self.enter(call, About::Path(path))? {
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
