//! The audit log: who logged in, who did not, and what changed about users, permissions, policies and limits.
//!
//! One JSON object a line, in `audit.log` of the data directory, each with the hash of the one before it:
//!
//! ```text
//! {"time":"2026-11-23T07:40:00Z","event":"login","user":"shop","peer":"10.0.0.7","previous":"HASH","hash":"HASH"}
//! ```
//!
//! `hash` is the SHA-256 of the line up to the comma before it, so no line can be changed, taken out or put in between
//! without [`verify`] noticing. It cannot notice that the newest lines are missing: note the last hash elsewhere for that.
//!
//! A thread of its own writes. Nobody waits for it: what does not fit into its queue is counted, and the count is written.

mod chain;
mod repeats;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use broker::meta::Record;
use serde_json::{Value, json};
use tracing::warn;

use crate::{Failure, escape};
pub use chain::{Verified, verify};
use repeats::Repeats;

/// Entries that may wait to be written.
const WAITING_MAX: usize = 1024;

/// How often counts of what was repeated are looked at, and what was written is made durable.
const TICK: Duration = Duration::from_secs(1);

/// How long the end of the server waits for the last lines.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// What is written about.
#[derive(Debug)]
enum Entry {
    Login(Login),
    Change(Value),
    /// Write everything, then answer.
    Finish(Sender<()>),
}

/// Somebody came with a name and a secret.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) user: Arc<str>,
    pub(crate) peer: IpAddr,
    pub(crate) right: bool,
}

/// Where to say what has to be written. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Audit {
    entries: SyncSender<Entry>,
    /// Entries that found no room.
    lost: Arc<AtomicU64>,
}

impl Audit {
    /// Goes on with the log in a data directory, or begins one.
    pub(crate) fn start(data_dir: &Path) -> Result<Audit, Failure> {
        let (entries, inbox) = sync_channel(WAITING_MAX);
        let audit = Audit { entries, lost: Arc::default() };
        let file = chain::File::open(data_dir)
            .map_err(|error| Failure(format!("the audit log in {}: {error}", data_dir.display())))?;
        let writer = Writer { file, lost: Arc::clone(&audit.lost), repeats: Repeats::default() };
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run(&inbox))?;
        Ok(audit)
    }

    pub(crate) fn login(&self, login: Login) {
        self.tell(Entry::Login(login));
    }

    /// A change was committed; most are not worth a line here.
    pub(crate) fn change(&self, record: &Record) {
        if let Some(change) = describe(record) {
            self.tell(Entry::Change(change));
        }
    }

    /// Waits until everything is written, but not for long.
    pub(crate) fn finish(&self) {
        let (answer, answered) = channel();
        if self.entries.try_send(Entry::Finish(answer)).is_ok() {
            let _ = answered.recv_timeout(FINISH_TIMEOUT);
        }
    }

    fn tell(&self, entry: Entry) {
        if self.entries.try_send(entry).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What a record says about users, permissions, policies and limits, without any hash of a password.
fn describe(record: &Record) -> Option<Value> {
    match record {
        Record::UserPut { user } => Some(json!({"user_put": {"name": user.name, "tags": user.tags}})),
        Record::VhostAdded { .. }
        | Record::VhostDeleted { .. }
        | Record::VhostMetadataSet { .. }
        | Record::VhostLimitsSet { .. }
        | Record::UserDeleted { .. }
        | Record::UserLimitsSet { .. }
        | Record::PermissionsSet { .. }
        | Record::PermissionsCleared { .. }
        | Record::TopicPermissionsSet { .. }
        | Record::PolicyPut { .. }
        | Record::PolicyDeleted { .. } => serde_json::to_value(record).ok(),
        Record::QueueIdsReserved { .. }
        | Record::ExchangeDeclared { .. }
        | Record::ExchangeDeleted { .. }
        | Record::QueueDeclared { .. }
        | Record::QueueDeleted { .. }
        | Record::Bound { .. }
        | Record::Unbound { .. } => None,
    }
}

struct Writer {
    file: chain::File,
    lost: Arc<AtomicU64>,
    repeats: Repeats,
}

impl Writer {
    fn run(mut self, inbox: &Receiver<Entry>) {
        let mut ticked = Instant::now();
        loop {
            match inbox.recv_timeout(TICK) {
                Ok(Entry::Login(login)) => {
                    if self.repeats.is_first(&login, Instant::now()) {
                        self.write(about(&login, 1));
                    }
                }
                Ok(Entry::Change(change)) => self.write(vec![("event", "change".into()), ("change", change)]),
                Ok(Entry::Finish(answer)) => {
                    self.tick(None);
                    let _ = answer.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.tick(None),
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.tick(Some(ticked));
            }
        }
    }

    /// Writes what was counted: all of it, or what was counted for long enough.
    fn tick(&mut self, now: Option<Instant>) {
        for (login, times) in self.repeats.take_due(now) {
            self.write(about(&login, times));
        }
        if let Err(error) = self.file.sync() {
            warn!(%error, "the audit log cannot be made durable");
        }
    }

    fn write(&mut self, fields: chain::Fields) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            self.append(vec![("event", "lost".into()), ("entries", lost.into())], lost);
        }
        self.append(fields, 1);
    }

    /// What cannot be written counts as lost, with the `entries` that it stands for.
    fn append(&mut self, fields: chain::Fields, entries: u64) {
        if let Err(error) = self.file.append(fields) {
            self.lost.fetch_add(entries, Ordering::Relaxed);
            warn!(%error, "the audit log cannot be written");
        }
    }
}

/// Logins of one kind: who, from where, and how often since this was last said.
fn about(login: &Login, times: u64) -> chain::Fields {
    let event = if login.right { "login" } else { "login refused" };
    vec![
        ("event", event.into()),
        ("user", escape(&login.user).into()),
        ("peer", login.peer.to_string().into()),
        ("times", times.into()),
    ]
}
