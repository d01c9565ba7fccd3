//! Accepting connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use broker::id::ConnectionId;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tracing::{info, warn};

use crate::{Failure, Shared, connection};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// How long to wait after a failed accept: out of descriptors, most likely, and trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket that listens at `address`.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    bind().map_err(|error| Failure(format!("cannot listen at {address}: {error}")))
}

/// Accepts until the server stops.
pub(crate) async fn run(listener: TcpListener, shared: Arc<Shared>) {
    let next = AtomicU64::new(1);
    let mut stop = shared.stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                greet(stream, peer, ConnectionId(next.fetch_add(1, Ordering::Relaxed)), &shared)
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn greet(stream: TcpStream, peer: SocketAddr, id: ConnectionId, shared: &Arc<Shared>) {
    let Ok(place) = Arc::clone(&shared.connections).try_acquire_owned() else {
        warn!(%peer, limit = shared.config.limits.connections_max, "refused: too many connections");
        return;
    };
    if let Err(error) = prepare(&stream) {
        info!(%peer, %error, "the socket was gone at once");
        return;
    }
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        connection::serve(stream, peer, id, shared).await;
        drop(place);
    });
}

/// Small messages go at once, and a machine that vanished is noticed even without heartbeats.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
