//! AMQP through TLS: the same, and who shows a certificate is known by it.
//!
//! Clients here speak plainly to a tunnel, which does the client's side of TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use amqp::frame;
use amqp::method::{Method, connection};
use amqp::table::TableBuilder;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use server::config::{LoginFrom, Tls};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, SupportedProtocolVersion, version};

use crate::broker::Broker;
use crate::client::{Client, Options, persistent};
use crate::{eventually, within};

/// An authority, and what it has signed, as files.
struct Authority {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// Who a client is.
type Certificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { directory, issuer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a certificate for this machine, or whoever it is, and its key.
    fn sign(&self, name: &str) -> Certificate {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Hare");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        write(&self.path(&format!("{name}.pem")), &certificate.pem());
        write(&self.path(&format!("{name}.key")), &key.serialize_pem());
        (
            vec![certificate.der().clone()],
            PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
        )
    }

    /// A listener with the certificate called `server`.
    fn tls(&self) -> Tls {
        Tls {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            certificate: self.path("server.pem"),
            key: self.path("server.key"),
            client_ca: None,
            client_required: false,
            login_from: LoginFrom::DistinguishedName,
        }
    }

    fn connector(
        &self,
        client: Option<&Certificate>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key()).unwrap(),
        };
        TlsConnector::from(Arc::new(config))
    }
}

fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS12, &version::TLS13];

async fn start(tls: Tls) -> Broker {
    Broker::start_with(|config| config.tls = Some(tls)).await
}

async fn dial(address: SocketAddr, connector: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    connector.connect(ServerName::try_from("localhost").unwrap(), socket).await
}

/// Where a plain client connects to speak through TLS, once.
async fn tunnel(address: SocketAddr, connector: TlsConnector) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut plain, _) = listener.accept().await.unwrap();
        if let Ok(mut secure) = dial(address, &connector).await {
            let _ = copy_bidirectional(&mut plain, &mut secure).await;
        }
    });
    here
}

/// Says who it is by EXTERNAL.
async fn external(client: &mut Client) {
    client.write(&frame::PROTOCOL_HEADER).await;
    client.expect(0, (10, 10)).await;
    let capabilities = amqp::capabilities::Capabilities::ALL.to_table();
    let properties = TableBuilder::new().with("capabilities", capabilities.as_table());
    let start_ok = connection::StartOk {
        client_properties: properties.as_table(),
        mechanism: "EXTERNAL",
        response: b"",
        locale: "en_US",
    };
    client.send(0, Method::ConnectionStartOk(start_ok)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_through_tls() {
    let authority = Authority::new();
    authority.sign("server");
    let broker = start(authority.tls()).await;
    for versions in [BOTH, &BOTH[..1]] {
        let address = tunnel(broker.tls_address.unwrap(), authority.connector(None, versions)).await;
        let mut client = Client::connect(address).await;
        client.declare(crate::client::transient("q")).await;
        client.select_confirms(1).await;
        // More than any buffer on the way takes at once, in both directions.
        let large = "x".repeat(9 << 20);
        for body in ["small", &*large, "", &*large] {
            client.publish_with(1, "", "q", persistent(), body.to_owned()).await;
        }
        client.confirmed(1, 1, 4).await;
        for body in ["small", &*large, "", &*large] {
            assert!(client.get("q", true).await.unwrap().body == body.as_bytes(), "{} bytes", body.len());
        }
        client.close().await;
    }
    // And plainly, at the same time.
    Client::connect(broker.address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_no_tls_is_gone() {
    let authority = Authority::new();
    authority.sign("server");
    let broker = start(authority.tls()).await;
    let mut client = Client::dial(broker.tls_address.unwrap()).await;
    client.write(&frame::PROTOCOL_HEADER).await;
    let mut alert = Vec::new();
    within(crate::PATIENCE, "the end", client.stream.read_to_end(&mut alert)).await.unwrap();
    assert_eq!((alert.len(), alert[0]), (7, 21), "an alert of TLS");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_a_login() {
    let authority = Authority::new();
    authority.sign("server");
    let (ann, nobody) = (authority.sign("ann"), authority.sign("nobody"));
    let definitions = authority.path("definitions.json");
    let users = r#"{
        "users": [{"name": "CN=ann,O=Hare", "tags": ""}, {"name": "ann", "tags": ""}],
        "permissions": [{"user": "CN=ann,O=Hare", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
                        {"user": "ann", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}]
    }"#;
    std::fs::write(&definitions, users).unwrap();
    for login_from in [LoginFrom::DistinguishedName, LoginFrom::CommonName] {
        let client_ca = Some(authority.path("ca.pem"));
        let tls = Tls { client_ca, login_from, ..authority.tls() };
        let definitions = definitions.clone();
        let broker = Broker::start_with(|config| {
            config.tls = Some(tls);
            config.definitions = Some(definitions);
        })
        .await;
        let secure = broker.tls_address.unwrap();
        let address = tunnel(secure, authority.connector(Some(&ann), BOTH)).await;
        let mut client = Client::dial(address).await;
        external(&mut client).await;
        client.tune().await;
        client.enter().await;
        client.expect(0, (10, 41)).await;

        let mut client = Client::dial(tunnel(secure, authority.connector(Some(&nobody), BOTH)).await).await;
        external(&mut client).await;
        assert_eq!(client.connection_closed().await.code, 403);
        // Without a certificate it is not even offered, but a password is as good as ever.
        let mut client = Client::dial(tunnel(secure, authority.connector(None, BOTH)).await).await;
        external(&mut client).await;
        assert_eq!(client.connection_closed().await.code, 503);
        let address = tunnel(secure, authority.connector(None, BOTH)).await;
        Client::connect_with(address, Options::default()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_must_show_a_good_certificate_and_does_not_is_gone() {
    let (authority, other) = (Authority::new(), Authority::new());
    authority.sign("server");
    let (ann, stranger) = (authority.sign("ann"), other.sign("ann"));
    let client_ca = Some(authority.path("ca.pem"));
    let broker = start(Tls { client_ca, client_required: true, ..authority.tls() }).await;
    let secure = broker.tls_address.unwrap();
    for refused in [None, Some(&stranger)] {
        let address = tunnel(secure, authority.connector(refused, BOTH)).await;
        let mut client = Client::dial(address).await;
        client.write(&frame::PROTOCOL_HEADER).await;
        client.ended().await;
    }
    let address = tunnel(secure, authority.connector(Some(&ann), BOTH)).await;
    Client::connect_with(address, Options::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_for_new_connections() {
    let authority = Authority::new();
    let (first, _) = authority.sign("server");
    let broker = start(authority.tls()).await;
    let secure = broker.tls_address.unwrap();
    let shown = async || {
        let stream = dial(secure, &authority.connector(None, BOTH)).await.ok()?;
        stream.get_ref().1.peer_certificates()?.first().cloned()
    };
    let mut client = Client::connect(tunnel(secure, authority.connector(None, BOTH)).await).await;
    assert_eq!(shown().await.unwrap(), first[0]);
    write(&authority.path("server.pem"), "nonsense");
    broker.reload.reload();
    let (second, _) = authority.sign("server");
    broker.reload.reload();
    eventually("the new certificate is shown", async || {
        (shown().await.as_ref() == second.first()).then_some(())
    })
    .await;
    // Who was there before stays.
    client.declare(crate::client::transient("q")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_make_no_sense_are_named() {
    let authority = Authority::new();
    authority.sign("server");
    authority.sign("other");
    let directory = tempfile::tempdir().unwrap();
    let cases = [
        Tls { certificate: authority.path("nowhere.pem"), ..authority.tls() },
        Tls { certificate: authority.path("server.key"), ..authority.tls() },
        Tls { key: authority.path("server.pem"), ..authority.tls() },
        Tls { key: authority.path("other.key"), ..authority.tls() },
        Tls { client_ca: Some(authority.path("nowhere.pem")), ..authority.tls() },
    ];
    for tls in cases {
        let mut config = crate::broker::config(directory.path());
        config.tls = Some(tls);
        let starting = within(crate::PATIENCE, "an answer", server::Server::start(config));
        let text = starting.await.err().unwrap().to_string();
        assert!(text.starts_with("TLS ") && text.contains(".pem") | text.contains(".key"), "{text}");
    }
}
