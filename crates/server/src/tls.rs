//! TLS for the AMQP listener: certificates from files, read again when they change.
//!
//! A connection keeps the certificate it began with; the next one gets the newest that makes sense. TLS 1.2 and 1.3, with
//! rustls and ring. Who shows a certificate is known by its name: see [`name`].

mod name;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::Failure;
use crate::config::{LoginFrom, Tls};

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The files as they are now, ready for connections.
#[derive(Clone)]
pub(crate) struct Acceptor {
    current: watch::Receiver<Arc<ServerConfig>>,
    login_from: LoginFrom,
}

impl Acceptor {
    /// Reads the files and keeps an eye on them, and reads them when `wanted`.
    ///
    /// # Errors
    /// When they make no sense now. Later they are left alone until they do.
    pub(crate) fn start(tls: Tls, wanted: Arc<Notify>) -> Result<Acceptor, Failure> {
        let seen = stamps(&tls);
        let (publisher, current) = watch::channel(Arc::new(load(&tls)?));
        let login_from = tls.login_from;
        tokio::spawn(keep(tls, seen, publisher, wanted));
        Ok(Acceptor { current, login_from })
    }

    /// What in a client's certificate is its login name.
    pub(crate) fn login_from(&self) -> LoginFrom {
        self.login_from
    }

    /// The server's side of a new connection.
    pub(crate) fn session(&self) -> Result<ServerConnection, rustls::Error> {
        ServerConnection::new(Arc::clone(&self.current.borrow()))
    }
}

/// Publishes what is in the files whenever that changes, until nobody wants to know.
async fn keep(
    tls: Tls,
    mut seen: Vec<Option<(SystemTime, u64)>>,
    publisher: watch::Sender<Arc<ServerConfig>>,
    wanted: Arc<Notify>,
) {
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let asked = tokio::select! {
            _ = look.tick() => false,
            () = wanted.notified() => true,
            () = publisher.closed() => return,
        };
        let now = stamps(&tls);
        if now == seen && !asked {
            continue;
        }
        match load(&tls) {
            Ok(config) => {
                publisher.send_replace(Arc::new(config));
                info!(certificate = %tls.certificate.display(), "new connections get the certificate as it is now");
            }
            Err(failure) => warn!(%failure, "the certificate that was read before stays in use"),
        }
        seen = now;
    }
}

/// What tells that a file has changed.
fn stamps(tls: &Tls) -> Vec<Option<(SystemTime, u64)>> {
    let stamp = |path: &Path| {
        let about = std::fs::metadata(path).ok()?;
        Some((about.modified().ok()?, about.len()))
    };
    [Some(&tls.certificate), Some(&tls.key), tls.client_ca.as_ref()]
        .into_iter()
        .flatten()
        .map(|path| stamp(path))
        .collect()
}

/// Reads the files.
fn load(tls: &Tls) -> Result<ServerConfig, Failure> {
    let chain = certificates(&tls.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| {
        Failure(format!("TLS key {}: {error}, expected a private key in PEM", tls.key.display()))
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure(format!("TLS: {error}")))?
        .with_client_cert_verifier(verifier(tls)?);
    builder.with_single_cert(chain, key).map_err(|error| {
        let (certificate, key) = (tls.certificate.display(), tls.key.display());
        Failure(format!("TLS certificate {certificate} with key {key}: {error}"))
    })
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let wrong = |what: String| Failure(format!("TLS certificate {}: {what}", path.display()));
    let chain = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| wrong(error.to_string()))?;
    if chain.is_empty() {
        return Err(wrong("there is none, expected at least one in PEM".to_owned()));
    }
    Ok(chain)
}

/// Who looks at the certificates of clients.
fn verifier(tls: &Tls) -> Result<Arc<dyn ClientCertVerifier>, Failure> {
    let Some(path) = &tls.client_ca else { return Ok(WebPkiClientVerifier::no_client_auth()) };
    let wrong = |error: &dyn std::fmt::Display| Failure(format!("TLS client CA {}: {error}", path.display()));
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| wrong(&error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if tls.client_required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| wrong(&error))
}

/// The login name that the client's certificate stands for, if it showed one.
pub(crate) fn login(session: &ServerConnection, from: LoginFrom) -> Option<String> {
    name::of(session.peer_certificates()?.first()?, from)
}
