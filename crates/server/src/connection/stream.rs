//! A socket, with TLS on it or without. Nothing here waits but what says so.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::time::Duration;

use rustls::ServerConnection;
use socket2::SockRef;
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a client may take for the handshake of TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the last bytes may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes that TLS takes at once: what it has taken counts as written.
const PLAIN_SIZE_MAX: usize = 64 << 10;

/// What a connection reads from and writes to.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

/// A socket and what TLS makes of its bytes.
pub(crate) struct TlsStream {
    socket: TcpStream,
    session: ServerConnection,
    /// There may be bytes that have arrived, and were not read yet, of which the socket says nothing.
    more: bool,
}

impl Stream {
    /// Waits until one of these is possible.
    pub(super) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Stream::Plain(socket) => socket.ready(interest).await,
            Stream::Tls(tls) if tls.more && interest.is_readable() => Ok(Ready::READABLE),
            Stream::Tls(tls) => tls.socket.ready(interest).await,
        }
    }

    /// Whether bytes wait for the socket that nobody else knows of.
    pub(super) fn wants_write(&self) -> bool {
        matches!(self, Stream::Tls(tls) if tls.session.wants_write())
    }

    /// As [`TcpStream::try_read`].
    #[inline]
    pub(super) fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => receive(socket, buffer),
            Stream::Tls(tls) => tls.read(buffer),
        }
    }

    /// As [`TcpStream::try_write`].
    #[inline]
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.try_write(bytes),
            Stream::Tls(tls) => tls.write(bytes),
        }
    }

    /// As [`TcpStream::try_write_vectored`].
    pub(crate) fn try_write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.try_write_vectored(pieces),
            Stream::Tls(tls) => match pieces.iter().find(|piece| !piece.is_empty()) {
                Some(piece) => tls.write(piece),
                None => Ok(0),
            },
        }
    }

    /// Writes what TLS has for the socket, as far as that takes it.
    pub(super) fn try_flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(_) => Ok(()),
            Stream::Tls(tls) => tls.flush().map(drop),
        }
    }

    /// Says that nothing follows, and waits until that is written.
    pub(super) async fn close(&mut self) {
        if let Stream::Tls(tls) = self {
            tls.session.send_close_notify();
            // Who does not read it has missed nothing.
            let _ = timeout(CLOSE_TIMEOUT, tls.drain()).await;
        }
    }
}

/// Reads what has arrived. What leaves room in the buffer was all: the socket counts as not readable from then on, which
/// saves the read that would find nothing.
fn receive(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut all = None;
    let outcome = socket.try_io(Interest::READABLE, || match (&*SockRef::from(socket)).read(buffer) {
        Ok(size) if 0 < size && size < buffer.len() => {
            all = Some(size);
            Err(ErrorKind::WouldBlock.into())
        }
        outcome => outcome,
    });
    all.map_or(outcome, Ok)
}

impl TlsStream {
    /// Does the handshake.
    ///
    /// # Errors
    /// When the client does not speak TLS as it should, shows no certificate that it must show, or takes too long.
    pub(crate) async fn accept(socket: TcpStream, session: ServerConnection) -> io::Result<TlsStream> {
        let mut tls = TlsStream { socket, session, more: true };
        tls.session.set_buffer_limit(Some(PLAIN_SIZE_MAX));
        match timeout(HANDSHAKE_TIMEOUT, tls.shake_hands()).await {
            Ok(done) => done.map(|()| tls),
            Err(_) => Err(io::Error::new(ErrorKind::TimedOut, "the TLS handshake took too long")),
        }
    }

    /// The other side, as far as TLS knows it.
    pub(crate) fn session(&self) -> &ServerConnection {
        &self.session
    }

    async fn shake_hands(&mut self) -> io::Result<()> {
        while self.session.is_handshaking() {
            self.drain().await?;
            self.socket.readable().await?;
            match self.receive() {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        self.drain().await
    }

    /// Waits until the socket has taken all.
    async fn drain(&mut self) -> io::Result<()> {
        while !self.flush()? {
            self.socket.writable().await?;
        }
        Ok(())
    }

    /// Takes bytes from the socket; 0: it has ended.
    fn receive(&mut self) -> io::Result<usize> {
        let size = self.session.read_tls(&mut Socket(&self.socket))?;
        if let Err(error) = self.session.process_new_packets() {
            // There is an alert that says why.
            let _ = self.flush();
            return Err(io::Error::new(ErrorKind::InvalidData, error));
        }
        Ok(size)
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut size = 0;
        self.more = false;
        while size < buffer.len() {
            match self.session.reader().read(&mut buffer[size..]) {
                // The end comes again at the next read.
                Ok(0) => return Ok(size),
                Ok(read) => {
                    size += read;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // AMQP has a close of its own: who leaves out that of TLS has cut off nothing.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(size),
                Err(error) => return Err(error),
            }
            match self.receive() {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && size > 0 => return Ok(size),
                Err(error) => return Err(error),
            }
        }
        self.more = true;
        Ok(size)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.flush()? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let size = self.session.writer().write(&bytes[..bytes.len().min(PLAIN_SIZE_MAX)])?;
        self.flush()?;
        Ok(size)
    }

    /// Whether the socket has taken all.
    fn flush(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Socket(&self.socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// A socket for those who know only [`Read`] and [`Write`].
struct Socket<'a>(&'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
