//! The handshake: who is it, and where to?

use std::sync::Arc;

use amqp::error::Error;
use amqp::sasl::{self, Credentials};
use amqp::server::{Connection, Event};
use amqp::table::TableBuilder;
use broker::access;
use broker::id::ConnectionId;
use broker::meta::Change;
use broker::password::PasswordHash;
use broker::topology::Topology;
use tracing::{info, warn};

use super::Peer;
use super::links::Links;
use crate::audit::{Audit, Login};
use crate::auth::Verdict;
use crate::census::Place;
use crate::session::{Identity, Session};
use crate::shard::Mail;
use crate::{Shared, boot, escape, random};

/// SASL mechanisms that are offered to all.
const MECHANISMS: &str = "PLAIN AMQPLAIN";

/// Those for who has shown a certificate.
const MECHANISMS_BY_CERTIFICATE: &str = "PLAIN AMQPLAIN EXTERNAL";

/// Class and method ids of what can be refused.
const START_OK: (u16, u16) = (10, 11);
const OPEN: (u16, u16) = (10, 40);

/// A client that is not yet known, or not yet in a virtual host.
#[derive(Debug)]
pub(super) struct Greeting {
    id: ConnectionId,
    peer: Peer,
    user: Arc<str>,
    /// The hash that a password was checked against; `None` after a login by certificate.
    password: Option<PasswordHash>,
    mechanism: String,
    /// The password is being checked: what comes in the meantime stays in the socket.
    checking: bool,
}

/// What must be said once the event, which borrows the connection, is done with.
#[derive(Debug)]
pub(super) enum Next {
    /// Nothing.
    Wait,
    /// `connection.start` with these mechanisms.
    Start(&'static str),
    /// `connection.open-ok`; the session can begin.
    Open(Arc<str>, Place),
    /// `channel.open-ok`, if there may be one more.
    Opened(u16),
    /// Nothing: the client has closed this channel.
    Left(u16),
    /// Nothing: the client has closed the connection.
    Over,
}

impl Greeting {
    pub(super) fn new(id: ConnectionId, peer: Peer) -> Greeting {
        Greeting { id, peer, user: Arc::from(""), password: None, mechanism: String::new(), checking: false }
    }

    /// Whether the client has to wait for `verified`.
    pub(super) fn is_checking(&self) -> bool {
        self.checking
    }

    pub(super) fn event(
        &mut self,
        event: &Event<'_>,
        shared: &Arc<Shared>,
        topology: &Topology,
        links: &Links,
    ) -> Result<Next, Error> {
        match event {
            Event::ProtocolHeader => Ok(Next::Start(self.mechanisms())),
            Event::Login { mechanism, response, .. } => {
                let login = self.login(mechanism, response, shared, topology, links);
                login.map_err(|error| error.at(START_OK))?;
                Ok(Next::Wait)
            }
            Event::Open { vhost } => {
                let refused =
                    |error: broker::error::Error| Error::new(error.amqp_code(), error.text).at(OPEN);
                topology.find_vhost(vhost).map_err(refused)?;
                topology.access().may_enter(&self.user, vhost).map_err(refused)?;
                let vhost = Arc::from(*vhost);
                let place = shared.census.enter(topology, &self.user, &vhost).map_err(refused)?;
                Ok(Next::Open(vhost, place))
            }
            _ => Ok(Next::Wait),
        }
    }

    fn mechanisms(&self) -> &'static str {
        if self.peer.name.is_some() { MECHANISMS_BY_CERTIFICATE } else { MECHANISMS }
    }

    /// The certificate was verified by TLS: its name only has to be a user's.
    fn login_by_certificate(&mut self, name: &str, shared: &Shared, topology: &Topology, links: &Links) {
        let confined = access::may_connect(name, self.peer.address.ip(), &shared.config.loopback_users);
        let right = confined.is_ok() && topology.access().user(name).is_some();
        self.user = Arc::from(name);
        self.checking = true;
        let _ = links.mailbox().send(Mail::Login(right));
    }

    fn login(
        &mut self,
        mechanism: &str,
        response: &[u8],
        shared: &Arc<Shared>,
        topology: &Topology,
        links: &Links,
    ) -> Result<(), Error> {
        mechanism.clone_into(&mut self.mechanism);
        if let ("EXTERNAL", Some(name)) = (mechanism, self.peer.name.clone()) {
            self.login_by_certificate(&name, shared, topology, links);
            return Ok(());
        }
        let Credentials { user, password } = match mechanism {
            "PLAIN" => sasl::parse_plain(response)?,
            "AMQPLAIN" => sasl::parse_amqplain(response)?,
            other => {
                return Err(Error::command_invalid(format!("unknown authentication mechanism '{other}'")));
            }
        };
        self.user = Arc::from(&*user);
        self.checking = true;
        let confined = access::may_connect(&user, self.peer.address.ip(), &shared.config.loopback_users);
        let hash = topology.access().user(&user).map(|user| user.password.clone());
        let hash = hash.filter(|_| confined.is_ok());
        self.password.clone_from(&hash);
        let (shared, mailbox, peer) = (Arc::clone(shared), links.mailbox(), self.peer.address.ip());
        tokio::spawn(async move {
            let verdict = shared.logins.verify(peer, hash.clone(), password.clone()).await;
            let _ = mailbox.send(Mail::Login(verdict != Verdict::Wrong));
            if let (Verdict::RightAtLast, Some(hash)) = (verdict, hash) {
                strengthen(&shared, Arc::from(user), hash, password).await;
            }
        });
        Ok(())
    }

    /// The password was checked.
    pub(super) fn verified(
        &mut self,
        right: bool,
        connection: &mut Connection,
        audit: &Audit,
        out: &mut Vec<u8>,
    ) {
        self.checking = false;
        audit.login(Login { user: Arc::clone(&self.user), peer: self.peer.address.ip(), right });
        let (peer, user) = (self.peer.address, escape(&self.user));
        if right {
            info!(connection = self.id.0, %peer, user, "logged in");
            connection.accept_login(out);
        } else {
            warn!(connection = self.id.0, %peer, user, mechanism = self.mechanism, "login refused");
            connection.refuse_login(out, &self.mechanism);
        }
    }

    /// The virtual host is open.
    pub(super) fn session(
        &self,
        vhost: Arc<str>,
        connection: &Connection,
        topology: Topology,
        shared: &Shared,
    ) -> Session {
        let timeout = shared.config.limits.consumer_timeout;
        let identity = Identity {
            connection: self.id,
            user: Arc::clone(&self.user),
            password: self.password.clone(),
            vhost,
            frame_max: connection.negotiated().frame_max,
            consumer_cancel_notify: connection.capabilities().consumer_cancel_notify,
            consumer_timeout_ms: timeout.and_then(|timeout| u64::try_from(timeout.as_millis()).ok()),
        };
        Session::new(identity, topology, shared.shards.len())
    }
}

/// Replaces a hash that came from elsewhere by one of ours, now that the password is known.
async fn strengthen(shared: &Shared, user: Arc<str>, old: PasswordHash, password: String) {
    // The first user's password is public: there is nothing to protect.
    if !old.needs_rehash() || boot::is_first_password(&old) {
        return;
    }
    let Some(new) = shared.logins.rehash(&old, password, random::bytes()).await else { return };
    let name = escape(&user);
    shared.meta.change(Change::ReplaceHash { user, old, new }, move |result| match result {
        Ok(_) => info!(user = name, "the password's hash is Argon2id now"),
        Err(error) => warn!(user = name, error = error.text, "the password keeps its old hash"),
    });
}

/// Offers the mechanisms.
pub(super) fn send_start(connection: &mut Connection, out: &mut Vec<u8>, shared: &Shared, mechanisms: &str) {
    let properties = TableBuilder::new()
        .with("capabilities", amqp::capabilities::Capabilities::ALL.to_table().as_table())
        .with("product", shared.config.product.as_str())
        .with("version", shared.config.version.as_str())
        .with("platform", "Rust")
        .with("cluster_name", shared.config.cluster_name.as_str())
        .with("copyright", "Copyright the authors of Leveret")
        .with("information", "Leveret, a message broker. Licensed under the Apache License 2.0.");
    connection.send_start(out, properties.as_table(), mechanisms);
}
