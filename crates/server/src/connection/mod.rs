//! The task of one connection: waits for its socket, its mail and its timers, and lets the client's state think.

mod client;
mod greeting;
mod input;
mod links;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use broker::id::ConnectionId;
use broker::topology::Topology;
use tokio::io::{Interest, Ready};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Sleep, sleep_until};
use tracing::{debug, info};

use crate::Shared;
use crate::alarm::Alarms;
use crate::shard::Mail;
use client::Client;
use input::{Input, Read};
use links::Links;
pub(crate) use stream::{Stream, TlsStream};

/// Mails taken at once.
const MAIL_MAX: usize = 64;

/// Who connects.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// The login name that its certificate stands for, if it showed one.
    pub(crate) name: Option<String>,
}

/// What the task waited for.
enum Woken {
    Socket(Ready),
    Mail,
    Room(OwnedSemaphorePermit),
    Topology,
    Alarms,
    Stop,
    Timer,
}

/// Serves a client until it goes.
pub(crate) async fn serve(stream: Stream, peer: Peer, id: ConnectionId, shared: Arc<Shared>) {
    let address = peer.address;
    let (links, mail) = Links::new(id, shared.shards.clone(), shared.meta.clone());
    let (topology, alarms, stop) = (shared.meta.topology(), shared.alarms.clone(), shared.stop.clone());
    let client = Client::new(id, peer, links, shared);
    let mut task = Task {
        stream,
        input: Input::default(),
        topology,
        alarms,
        stop,
        mail,
        mails: Vec::new(),
        timer: Box::pin(sleep_until(client.deadline())),
        client,
    };
    match task.run().await {
        Ok(()) => info!(connection = id.0, peer = %address, "closed"),
        Err(error) => info!(connection = id.0, peer = %address, %error, "closed by an error of the socket"),
    }
}

struct Task {
    stream: Stream,
    input: Input,
    topology: watch::Receiver<Topology>,
    alarms: watch::Receiver<Alarms>,
    stop: watch::Receiver<bool>,
    mail: UnboundedReceiver<Mail>,
    mails: Vec<Mail>,
    /// Ends at the client's deadline. Kept from step to step, since setting a timer takes a lock.
    timer: Pin<Box<Sleep>>,
    client: Client,
}

impl Task {
    async fn run(&mut self) -> io::Result<()> {
        self.client.alarms_changed(*self.alarms.borrow_and_update());
        let mut outcome = Ok(());
        while !self.client.is_over() {
            if let Err(error) = self.step().await {
                outcome = Err(error);
                self.client.end();
            }
        }
        if outcome.is_ok() {
            self.stream.close().await;
        }
        outcome
    }

    async fn step(&mut self) -> io::Result<()> {
        let woken = self.select().await?;
        self.apply(woken)?;
        self.finish_round()
    }

    async fn select(&mut self) -> io::Result<Woken> {
        let readable = self.client.can_read().then_some(Interest::READABLE);
        let writes = !self.client.output.is_empty() || self.stream.wants_write();
        let writable = writes.then_some(Interest::WRITABLE);
        let interest = match (readable, writable) {
            (Some(read), Some(write)) => Some(read | write),
            (one, other) => one.or(other),
        };
        let room = self.client.wants_room();
        if self.timer.deadline() != self.client.deadline() {
            self.timer.as_mut().reset(self.client.deadline());
        }
        tokio::select! {
            ready = self.stream.ready(interest.unwrap_or(Interest::READABLE)), if interest.is_some() => Ok(Woken::Socket(ready?)),
            _ = self.mail.recv_many(&mut self.mails, MAIL_MAX) => Ok(Woken::Mail),
            Some(room) = reserve(room) => Ok(Woken::Room(room)),
            Ok(()) = self.topology.changed() => Ok(Woken::Topology),
            Ok(()) = self.alarms.changed() => Ok(Woken::Alarms),
            Ok(()) = self.stop.changed() => Ok(Woken::Stop),
            () = self.timer.as_mut() => Ok(Woken::Timer),
        }
    }

    /// Thinks, and reads where there is something to read.
    fn apply(&mut self, woken: Woken) -> io::Result<()> {
        // A change that this connection asked for must be seen by what it does next.
        if self.topology.has_changed().unwrap_or(false) || matches!(woken, Woken::Topology) {
            self.client.topology_changed(self.topology.borrow_and_update().clone());
        }
        match woken {
            Woken::Socket(ready) => {
                self.stream.try_flush()?;
                if (ready.is_readable() || ready.is_read_closed()) && self.client.can_read() {
                    self.read()?;
                }
            }
            Woken::Mail => self.client.take_mail(&mut self.mails),
            Woken::Room(room) => self.client.send_with(room),
            Woken::Topology => {}
            Woken::Alarms => self.client.alarms_changed(*self.alarms.borrow_and_update()),
            Woken::Stop => self.client.stop(),
            Woken::Timer => self.client.tick(),
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        let client = &mut self.client;
        let size_max = client.read_size();
        if self.input.read(&mut self.stream, size_max, |bytes| client.parse(bytes))? == Read::End {
            debug!(connection = client.id().0, "the client has closed its socket");
            client.end();
        }
        Ok(())
    }

    /// Goes on with what is left of the input, as far as that can be understood: what a read finds comes behind it.
    fn finish_round(&mut self) -> io::Result<()> {
        self.client.pass_on();
        loop {
            self.reparse();
            let held_up = !self.client.can_read();
            self.client.flush(&mut self.stream)?;
            // Writing may have made room for more answers.
            if !(held_up && self.client.can_read()) {
                return Ok(());
            }
        }
    }

    fn reparse(&mut self) {
        let client = &mut self.client;
        while !self.input.is_empty() && client.can_read() {
            let before = self.input.len();
            self.input.reparse(|bytes| client.parse(bytes));
            client.pass_on();
            if self.input.len() == before {
                return;
            }
        }
    }
}

/// Room at a shard, if any is wanted.
async fn reserve(wanted: Option<(crate::shard::Handle, usize)>) -> Option<OwnedSemaphorePermit> {
    let (shard, bytes) = wanted?;
    Some(shard.reserve(bytes).await)
}
