//! A broker in this process, on a port and a directory of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use server::config::Config;
use server::{Failure, Reload, Server};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::within;

/// A running broker. Its data outlives it: `stop` gives back the directory, for another.
pub(crate) struct Broker {
    pub(crate) address: SocketAddr,
    pub(crate) tls_address: Option<SocketAddr>,
    pub(crate) reload: Reload,
    directory: TempDir,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), Failure>>,
}

/// A configuration for tests: one shard, any free port, and no limit that the machine might reach.
pub(crate) fn config(directory: &Path) -> Config {
    let mut config = Config::new(directory);
    config.amqp = SocketAddr::from(([127, 0, 0, 1], 0));
    config.shards = 1;
    config.limits.disk_free_min = 0;
    config.limits.message_bytes_max = 8 << 30;
    config
}

impl Broker {
    pub(crate) async fn start() -> Broker {
        Broker::start_with(|_| ()).await
    }

    /// Starts with four shards.
    pub(crate) async fn start_sharded() -> Broker {
        Broker::start_with(|config| config.shards = 4).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Broker {
        let directory = tempfile::tempdir().unwrap();
        Broker::start_in(directory, change).await
    }

    pub(crate) async fn start_in(directory: TempDir, change: impl FnOnce(&mut Config)) -> Broker {
        let mut config = config(directory.path());
        change(&mut config);
        let server = Server::start(config).await.unwrap();
        let (address, tls_address, reload) = (server.address(), server.tls_address(), server.reload());
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async move { drop(stopped.await) }));
        Broker { address, tls_address, reload, directory, stop, running }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Stops gracefully.
    pub(crate) async fn stop(self) -> TempDir {
        let Broker { directory, stop, running, .. } = self;
        stop.send(()).unwrap();
        within(Duration::from_secs(10), "the broker stops", running).await.unwrap().unwrap();
        directory
    }

    /// Asks it to stop, and does not wait.
    pub(crate) fn begin_to_stop(self) -> (JoinHandle<Result<(), Failure>>, TempDir) {
        self.stop.send(()).unwrap();
        (self.running, self.directory)
    }

    /// Stops and starts again on the same data.
    pub(crate) async fn restart(self) -> Broker {
        Broker::start_in(self.stop().await, |_| ()).await
    }
}
