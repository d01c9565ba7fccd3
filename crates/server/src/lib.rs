//! The server: listeners, connections, sessions, shards and their journals, wired together.
//!
//! ```text
//! socket ─▶ connection task ─▶ shard task ─▶ journal thread ─▶ disk
//!              │    ▲              │ ▲              │
//!              │    └── effects ───┘ └── synced ────┘
//!              └──▶ meta task ─▶ a new topology, for everybody
//! ```
//!
//! Each piece of state has one owner: a connection's task its session, a shard's task its queues, the meta task the
//! topology. They exchange messages and share no locks. Thinking is done in `broker` and `session`, which never wait.

pub mod audit;
pub mod config;
pub mod export;
pub mod journal;
pub mod ledger;
pub mod offline;
pub mod pager;
pub mod recovery;
pub mod topology_log;

mod alarm;
mod auth;
mod boot;
mod census;
mod clock;
mod connection;
mod descriptors;
mod forwarder;
mod listener;
mod lock;
mod meta;
mod output;
mod random;
mod session;
mod shard;
mod tls;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use alarm::Alarms;
use audit::Audit;
use config::Config;

/// How long clients may take to close their connections when the server stops.
const CLIENTS_TIMEOUT: Duration = Duration::from_secs(4);

/// How long the journals may take after that.
const JOURNALS_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a server could not start, or had to stop. The text says what, where and why.
#[derive(Clone, Debug)]
pub struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Failure {
        Failure(error.text)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure(error.to_string())
    }
}

impl From<broker::error::Error> for Failure {
    fn from(error: broker::error::Error) -> Failure {
        Failure(error.text)
    }
}

/// Where whoever cannot go on says so. The server stops.
#[derive(Clone, Debug)]
pub(crate) struct Fatal(watch::Sender<Option<Failure>>);

impl Fatal {
    pub(crate) fn report(&self, failure: Failure) {
        error!(%failure, "the server cannot go on");
        self.0.send_if_modified(|first| first.is_none() && first.replace(failure).is_none());
    }
}

/// Runs the task of an owner of state. Without it nothing works, so its panic stops the server.
pub(crate) fn spawn_owner(
    name: String,
    fatal: Fatal,
    task: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    let task = tokio::spawn(task);
    tokio::spawn(async move {
        if task.await.is_err() {
            fatal.report(Failure(format!("the task {name} has panicked: please report this")));
        }
    })
}

/// What every connection needs.
pub(crate) struct Shared {
    config: Config,
    shards: Vec<shard::Handle>,
    meta: meta::Handle,
    logins: auth::Logins,
    census: census::Census,
    audit: Audit,
    alarms: watch::Receiver<Alarms>,
    stop: watch::Receiver<bool>,
    /// One permit per connection.
    connections: Arc<Semaphore>,
    /// The id of the next connection.
    next_connection: AtomicU64,
}

/// Has certificates and definitions read again.
#[derive(Clone, Debug, Default)]
pub struct Reload {
    certificates: Arc<Notify>,
    definitions: Arc<Notify>,
}

impl Reload {
    /// Do so now. Connections stay; what makes no sense is logged and not used.
    pub fn reload(&self) {
        self.certificates.notify_one();
        self.definitions.notify_one();
    }
}

/// A running server.
pub struct Server {
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    reload: Reload,
    stop: watch::Sender<bool>,
    failed: watch::Receiver<Option<Failure>>,
    connections: Arc<Semaphore>,
    connections_max: usize,
    listeners: Vec<JoinHandle<()>>,
    owners: Vec<JoinHandle<()>>,
    audit: Audit,
    _lock: lock::DirectoryLock,
}

impl Server {
    /// Recovers what is in the data directory and begins to listen.
    ///
    /// # Errors
    /// When the directory is in use or unreadable, the address is taken, or the definitions make no sense.
    pub async fn start(config: Config) -> Result<Server, Failure> {
        let lock = lock::DirectoryLock::take(&config.data_dir)
            .map_err(|error| Failure(format!("data directory {}: {error}", config.data_dir.display())))?;
        // First of all, so that a taken address is known before anything is touched.
        let socket = listener::bind(config.amqp)?;
        let address = socket.local_addr()?;
        let reload = Reload::default();
        let secure =
            config.tls.clone().map(|tls| listener::bind_tls(tls, &reload.certificates)).transpose()?;
        let (fatal, failed) = watch::channel(None);
        let (stop, stopping) = watch::channel(false);
        let audit = Audit::start(&config.data_dir)?;
        let owners = boot::start(&config, &Fatal(fatal), stopping.clone(), audit.clone()).await?;
        if let Some(path) = config.definitions.clone() {
            let (meta, wanted) = (owners.meta.clone(), Arc::clone(&reload.definitions));
            tokio::spawn(boot::import_again(meta, path, wanted, stopping.clone()));
        }
        let shares = descriptors::Shares::of_process(config.shards);
        let connections_max =
            config.limits.connections_max.min(shares.connections).min(Semaphore::MAX_PERMITS);
        let connections = Arc::new(Semaphore::new(connections_max));
        let (alarms_out, alarms) = watch::channel(Alarms::default());
        let limits = alarm::Limits {
            message_bytes_max: config.limits.message_bytes_max,
            disk_free_min: config.limits.disk_free_min,
            data_dir: config.data_dir.clone(),
        };
        tokio::spawn(alarm::watch(limits, owners.shards.clone(), owners.meta.clone(), alarms_out));
        let shared = Arc::new(Shared {
            config,
            shards: owners.shards,
            meta: owners.meta,
            logins: auth::Logins::new(random::bytes()),
            census: census::Census::new(connections_max),
            audit: audit.clone(),
            alarms,
            stop: stopping,
            connections: Arc::clone(&connections),
            next_connection: AtomicU64::new(1),
        });
        let mut listeners = vec![tokio::spawn(listener::run(socket, None, Arc::clone(&shared)))];
        info!(%address, "listening for AMQP");
        let mut tls_address = None;
        if let Some((socket, address, acceptor)) = secure {
            listeners.push(tokio::spawn(listener::run(socket, Some(acceptor), shared)));
            info!(%address, "listening for AMQP with TLS");
            tls_address = Some(address);
        }
        Ok(Server {
            address,
            tls_address,
            reload,
            stop,
            failed,
            connections,
            connections_max,
            listeners,
            owners: owners.tasks,
            audit,
            _lock: lock,
        })
    }

    /// Where AMQP clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where AMQP clients connect with TLS.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// Has certificates and definitions read again.
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// Serves until `stop` is done, then stops gracefully, in less than ten seconds.
    ///
    /// # Errors
    /// When the disk failed. What was confirmed before is safe, nothing was confirmed after.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), Failure> {
        let failure = tokio::select! {
            () = stop => None,
            Ok(failure) = self.failed.wait_for(Option::is_some) => failure.clone(),
        };
        self.shut_down().await;
        let failure = failure.or_else(|| self.failed.borrow().clone());
        failure.map_or(Ok(()), Err)
    }

    async fn shut_down(&mut self) {
        info!("stopping");
        self.stop.send_replace(true);
        for listener in self.listeners.drain(..) {
            let _ = listener.await;
        }
        let all = u32::try_from(self.connections_max).unwrap_or(u32::MAX);
        if tokio::time::timeout(CLIENTS_TIMEOUT, self.connections.acquire_many(all)).await.is_err() {
            warn!("some clients did not close their connections in time");
        }
        let owners = std::mem::take(&mut self.owners);
        let finished = async {
            for owner in owners {
                if owner.await.is_err() {
                    error!("a shard has panicked");
                }
            }
        };
        match tokio::time::timeout(JOURNALS_TIMEOUT, finished).await {
            Ok(()) => info!("stopped"),
            Err(_) => error!("stopped without waiting longer for the journals; what was confirmed is safe"),
        }
        self.audit.finish();
    }
}

/// What a client sent, for the log: one line, and not too long.
pub(crate) fn escape(text: &str) -> String {
    const LENGTH_MAX: usize = 256;
    let mut escaped = String::with_capacity(text.len().min(LENGTH_MAX));
    for c in text.chars() {
        if escaped.len() >= LENGTH_MAX {
            escaped.push('…');
            break;
        }
        if c.is_control() || changes_direction(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// Ends of lines and changes of direction, with which a line can look like another.
fn changes_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn what_clients_send_stays_on_one_short_line() {
        assert_eq!(escape("queue 'ä'\r\n\u{1b}[31m"), r"queue 'ä'\r\n\u{1b}[31m");
        assert_eq!(escape("a\u{2028}b\u{202e}c"), r"a\u{2028}b\u{202e}c");
        assert_eq!(escape(&"x".repeat(256)), "x".repeat(256));
        assert_eq!(escape(&"x".repeat(257)), "x".repeat(256) + "…");
        assert!(escape(&"\u{1b}".repeat(1000)).len() < 300);
    }
}
