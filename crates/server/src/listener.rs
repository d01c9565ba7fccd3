//! Accepting connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use broker::id::ConnectionId;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::config::Tls;
use crate::connection::{Peer, Stream, TlsStream};
use crate::tls::{self, Acceptor};
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

/// A socket that listens for TLS, its address, and the certificates.
pub(crate) fn bind_tls(
    tls: Tls,
    reload: &Arc<Notify>,
) -> Result<(TcpListener, SocketAddr, Acceptor), Failure> {
    let socket = bind(tls.address)?;
    let address = socket.local_addr()?;
    Ok((socket, address, Acceptor::start(tls, Arc::clone(reload))?))
}

/// Accepts until the server stops.
pub(crate) async fn run(listener: TcpListener, acceptor: Option<Acceptor>, shared: Arc<Shared>) {
    let mut stop = shared.stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                greet(stream, peer, acceptor.clone(), &shared);
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn greet(stream: TcpStream, peer: SocketAddr, acceptor: Option<Acceptor>, shared: &Arc<Shared>) {
    let Ok(place) = Arc::clone(&shared.connections).try_acquire_owned() else {
        warn!(%peer, limit = shared.config.limits.connections_max, "refused: too many connections, by the configuration or by what is left of the descriptors");
        return;
    };
    let Some(seat) = shared.census.seat(peer.ip()) else {
        warn!(%peer, "refused: nearly all connections come from this address");
        return;
    };
    if let Err(error) = prepare(&stream) {
        info!(%peer, %error, "the socket was gone at once");
        return;
    }
    let id = ConnectionId(shared.next_connection.fetch_add(1, Ordering::Relaxed));
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        match acceptor {
            None => {
                let peer = Peer { address: peer, name: None };
                connection::serve(Stream::Plain(stream), peer, id, shared).await;
            }
            Some(acceptor) => match secure(stream, peer, &acceptor).await {
                Ok((stream, peer)) => connection::serve(stream, peer, id, shared).await,
                Err(error) => info!(connection = id.0, %peer, %error, "no TLS came about"),
            },
        }
        drop((place, seat));
    });
}

/// Does the handshake of TLS.
async fn secure(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: &Acceptor,
) -> std::io::Result<(Stream, Peer)> {
    let session = acceptor.session().map_err(std::io::Error::other)?;
    let stream = TlsStream::accept(stream, session).await?;
    let name = tls::login(stream.session(), acceptor.login_from());
    Ok((Stream::Tls(Box::new(stream)), Peer { address, name }))
}

/// Small messages go at once, and a machine that vanished is noticed even without heartbeats.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
