//! A disk in memory that loses power, tells lies and fails on demand; deterministic by seed.

mod inode;
mod random;
mod state;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, File};
pub use random::Random;
use state::{About, Change, State};

/// A disk in memory. Clones are handles of the same disk.
///
/// What was written, created, renamed or removed is visible at once and durable only after a sync, as on a
/// real disk. [`crash`](SimDisk::crash) keeps any part of the rest: single sectors of 512 bytes in any version
/// they had, torn ones too; any of the changed lengths; any of the directory's changes.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// An open file of a [`SimDisk`]. Fails once the disk crashed or its process was killed.
#[derive(Debug)]
pub struct SimFile {
    state: Arc<Mutex<State>>,
    inode: u64,
    epoch: u64,
}

/// A kind of call, to be counted or made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// [`Disk::create`]
    Create,
    /// [`Disk::open`] and [`Disk::open_to_read`]
    Open,
    /// [`Disk::list`]
    List,
    /// [`Disk::rename`]
    Rename,
    /// [`Disk::remove`]
    Remove,
    /// [`Disk::sync_dir`]
    SyncDir,
    /// [`File::write_at`]
    Write,
    /// [`File::read_at`]
    Read,
    /// [`File::zero`]
    Zero,
    /// [`File::sync`]
    Sync,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// EIO. A sync that fails so drops what it should have made durable, as Linux does: a later sync succeeds
    /// without it.
    Io,
    /// ENOSPC; nothing was written.
    Full,
    /// ENOSPC after the first half of a write.
    Short,
    /// The power goes in the middle of the call: it and all after it fail until [`SimDisk::crash`], or, when it
    /// was the process that died there, until [`SimDisk::kill`].
    PowerCut,
}

/// A fault to come.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Which call from now on, from 1.
    pub nth: u64,
    /// Only calls of this kind count.
    pub only: Option<Call>,
    /// Only calls about files and directories below this count.
    pub below: Option<PathBuf>,
    /// What goes wrong.
    pub fault: Fault,
    /// With so many calls, one after the other.
    pub times: u64,
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// The control of an experiment: an empty disk whose syncs do nothing and say that they did.
    pub fn without_sync() -> SimDisk {
        let disk = SimDisk::default();
        disk.state().lies = true;
        disk
    }

    /// The power goes and comes back. Of what was not synced, `seed` decides what is kept. All open files fail
    /// from now on; a planned fault is forgotten.
    pub fn crash(&self, seed: u64) {
        self.state().crash(&mut Random::new(seed));
    }

    /// The process is killed: nothing is lost, nothing becomes durable, all open files fail from now on.
    pub fn kill(&self) {
        self.state().reset();
    }

    /// Makes the `nth` call from now (from 1) fail; only calls of one kind count if `only` says so.
    ///
    /// Whatever else was planned is forgotten.
    pub fn fail(&self, nth: u64, only: Option<Call>, fault: Fault) {
        self.state().plans = vec![Planned { nth, only, below: None, fault, times: 1 }];
    }

    /// Plans a fault beside others.
    pub fn plan(&self, planned: Planned) {
        self.state().plans.push(planned);
    }

    /// Forgets all faults that were planned.
    pub fn forgive(&self) {
        self.state().plans.clear();
    }

    /// Whether a planned fault has not happened yet.
    pub fn is_fault_pending(&self) -> bool {
        !self.state().plans.is_empty()
    }

    /// Reading any of these bytes of a file fails with EIO from now on.
    pub fn spoil(&self, path: &Path, bytes: Range<u64>) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.inode_of(path)?;
        state.spoil(inode, bytes);
        Ok(())
    }

    /// How often something was called.
    pub fn count(&self, call: Call) -> u64 {
        self.state().counts.get(&call).copied().unwrap_or(0)
    }

    /// Bytes that were written to files.
    pub fn bytes_written(&self) -> u64 {
        self.state().written[0]
    }

    /// Bytes that were filled with zeros.
    pub fn bytes_zeroed(&self) -> u64 {
        self.state().written[1]
    }

    /// The bytes of a file as a process sees them; `None` if there is none.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let mut state = self.state();
        let inode = state.inode_of(path).ok()?;
        Some(state.inode(inode).bytes().to_vec())
    }

    /// Replaces the bytes of a file, durably, or makes it: how a test damages a file.
    pub fn overwrite(&self, path: &Path, bytes: &[u8]) {
        self.state().overwrite(path, bytes);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// A test that panics leaves a state that is as good as any.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk for SimDisk {
    type File = SimFile;

    fn create(&self, path: &Path) -> io::Result<SimFile> {
        let mut state = self.state();
        let cut = state.enter_whole(Call::Create, path)?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.make();
        state.change(Change::Create { path: path.to_owned(), inode });
        cut.map_or(Ok(SimFile { state: Arc::clone(&self.state), inode, epoch: state.epoch }), Err)
    }

    fn open(&self, path: &Path) -> io::Result<SimFile> {
        let mut state = self.state();
        if let Some(fault) = state.enter(Call::Open, About::Path(path))? {
            return Err(fault.error());
        }
        let inode = state.inode_of(path)?;
        Ok(SimFile { state: Arc::clone(&self.state), inode, epoch: state.epoch })
    }

    fn open_to_read(&self, path: &Path) -> io::Result<SimFile> {
        self.open(path)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.state().dirs.extend(dir.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        if let Some(fault) = state.enter(Call::List, About::Path(dir))? {
            return Err(fault.error());
        }
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let paths = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(paths.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let cut = state.enter_whole(Call::Rename, from)?;
        let inode = state.inode_of(from)?;
        state.change(Change::Rename { from: from.to_owned(), to: to.to_owned(), inode });
        cut.map_or(Ok(()), Err)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let cut = state.enter_whole(Call::Remove, path)?;
        let inode = state.inode_of(path)?;
        state.change(Change::Remove { path: path.to_owned(), inode });
        cut.map_or(Ok(()), Err)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        if let Some(fault) = state.enter(Call::SyncDir, About::Path(dir))? {
            return Err(fault.error());
        }
        if !state.lies {
            state.sync_dir(dir);
        }
        Ok(())
    }
}

impl SimFile {
    /// Locks the disk, if this file is still open.
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = lock(&self.state);
        if state.epoch == self.epoch { Ok(state) } else { Err(io::Error::other("the process is gone")) }
    }

    fn write(&self, call: Call, position: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state()?;
        let fault = state.enter(call, About::Inode(self.inode))?;
        let written = match fault {
            None | Some(Fault::PowerCut) => bytes,
            Some(Fault::Short) => &bytes[..bytes.len() / 2],
            Some(Fault::Io | Fault::Full) => &[],
        };
        state.written[usize::from(call == Call::Zero)] += written.len() as u64;
        state.inode(self.inode).write(index(position)?, written);
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }
}

fn index(position: u64) -> io::Result<usize> {
    usize::try_from(position).map_err(io::Error::other)
}

impl File for SimFile {
    fn write_at(&mut self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.write(Call::Write, position, bytes)
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state()?;
        if let Some(fault) = state.enter(Call::Read, About::Inode(self.inode))? {
            return Err(fault.error());
        }
        if state.is_spoiled(self.inode, &(position..position + buffer.len() as u64)) {
            return Err(Fault::Io.error());
        }
        let bytes = state.inode(self.inode).bytes().get(index(position)?..).unwrap_or_default();
        let read = buffer.len().min(bytes.len());
        buffer[..read].copy_from_slice(&bytes[..read]);
        Ok(read)
    }

    fn zero(&mut self, position: u64, len: u64) -> io::Result<()> {
        self.write(Call::Zero, position, &vec![0; index(len)?])
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.state()?;
        let fault = state.enter(Call::Sync, About::Inode(self.inode))?;
        let lies = state.lies;
        let inode = state.inode(self.inode);
        match fault {
            None if lies => {}
            None => inode.sync(),
            Some(Fault::PowerCut) => {}
            Some(Fault::Io | Fault::Full | Fault::Short) => inode.doom(),
        }
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.inode(self.inode).bytes().len() as u64)
    }
}
