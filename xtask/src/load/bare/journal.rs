//! Group commit and nothing else: what has gathered while the last fdatasync ran goes with the next.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::exit;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use amqp::frame;
use anyhow::{Context, Result};

use super::super::circle::Circle;

/// Bytes that may wait for the disk; above it, producers wait.
const GATHERED_MAX: usize = 32 << 20;

/// The channel of a producer.
const CHANNEL: u16 = 1;

/// The way to the thread that waits for the disk.
#[derive(Debug)]
pub(super) struct Journal(Arc<Gathering>);

#[derive(Debug, Default)]
struct Gathering {
    gathered: Mutex<Gathered>,
    changed: Condvar,
}

/// What waits for the disk.
#[derive(Debug, Default)]
struct Gathered {
    bytes: Vec<u8>,
    /// Who is told that all publishes up to this one are durable.
    confirm: Option<(TcpStream, u64)>,
}

impl Journal {
    /// Creates the file and starts the thread.
    pub(super) fn start(directory: &Path) -> Result<Journal> {
        let mut file = Circle::create(directory, "bare-broker")?;
        let gathering = Arc::new(Gathering::default());
        let journal = Journal(Arc::clone(&gathering));
        std::thread::Builder::new().name("journal".to_owned()).spawn(move || {
            let mut bytes = Vec::new();
            loop {
                let confirm = gathering.take(&mut bytes);
                if let Err(error) = file.commit(&bytes) {
                    eprintln!("bare-broker: {error:#}");
                    exit(1);
                }
                tell(confirm);
            }
        })?;
        Ok(journal)
    }

    /// Takes `bytes`, and confirms up to `published` on this socket once they are durable. Waits while the disk is behind.
    pub(super) fn append(
        &self,
        bytes: &mut Vec<u8>,
        published: Option<u64>,
        producer: &TcpStream,
    ) -> Result<()> {
        let full = |gathered: &mut Gathered| gathered.bytes.len() > GATHERED_MAX;
        let gathered = self.0.changed.wait_while(self.0.lock(), full);
        let mut gathered = gathered.unwrap_or_else(PoisonError::into_inner);
        if gathered.bytes.is_empty() {
            std::mem::swap(&mut gathered.bytes, bytes);
        } else {
            gathered.bytes.extend_from_slice(bytes);
        }
        bytes.clear();
        match (&mut gathered.confirm, published) {
            (Some((_, up_to)), Some(published)) => *up_to = published,
            (confirm, Some(published)) => {
                *confirm = Some((producer.try_clone().context("cannot share a socket")?, published));
            }
            (_, None) => {}
        }
        drop(gathered);
        self.0.changed.notify_all();
        Ok(())
    }
}

impl Gathered {
    /// Messages can be empty, and want their confirm all the same.
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.confirm.is_none()
    }
}

impl Gathering {
    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to write, and takes all of it in exchange for an empty buffer.
    fn take(&self, bytes: &mut Vec<u8>) -> Option<(TcpStream, u64)> {
        bytes.clear();
        let gathered = self.changed.wait_while(self.lock(), |gathered| gathered.is_empty());
        let mut gathered = gathered.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut gathered.bytes, bytes);
        let confirm = gathered.confirm.take();
        drop(gathered);
        self.changed.notify_all();
        confirm
    }
}

/// Confirms all up to a publish. A producer that has gone need not know.
fn tell(confirm: Option<(TcpStream, u64)>) {
    if let Some((mut socket, published)) = confirm {
        let mut out = Vec::new();
        frame::ack(&mut out, CHANNEL, published, true);
        socket.write_all(&out).ok();
    }
}
