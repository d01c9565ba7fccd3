//! The server from outside: each test starts one of its own and talks AMQP to it over TCP.
//!
//! `client` is a client without a mind of its own, which sends what it is told, right or wrong, and notes what it hears;
//! `lapin` is a client that people use.
#![allow(clippy::unwrap_used, clippy::needless_pass_by_value, reason = "these are tests")]

mod access;
mod alarms;
mod audit;
mod broker;
mod channels;
mod client;
mod compatibility;
mod consumers;
mod definitions;
mod garbage;
mod handshake;
mod heard;
mod heartbeats;
mod lapin;
mod lifetimes;
mod limits;
mod paging;
mod restart;
mod shards;
mod tls;
mod transactions;

use std::future::Future;
use std::time::Duration;

/// How long a test waits for something that should happen at once. Long, since machines are busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// What `future` gives, unless it takes longer than `limit`.
async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {limit:?} in vain: {what}"),
    }
}

/// Repeats `attempt` until it gives something: what becomes true a moment later, with nothing that tells when.
async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    within(PATIENCE, what, async {
        loop {
            if let Some(value) = attempt().await {
                return value;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}
