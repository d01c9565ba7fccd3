//! Everything a connection's task knows, and what it makes of what happens. Nothing here waits.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use amqp::error::Error;
use amqp::frame;
use amqp::method::{Method, connection};
use amqp::receiver::Failure;
use amqp::server::{Connection, Event, Offer};
use broker::id::ConnectionId;
use broker::shard::Effect;
use broker::topology::Topology;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tracing::{info, warn};

use super::greeting::{self, Greeting, Next};
use super::input::{READ_SIZE, STRANGER_READ_SIZE};
use super::links::Links;
use super::{Peer, Stream};
use crate::alarm::Alarms;
use crate::census::Place;
use crate::output::Output;
use crate::session::{Post, Session};
use crate::shard::Mail;
use crate::{Shared, escape, shard};

/// Bytes that may wait for the socket before nothing more is read from it.
const OUTPUT_MAX: usize = 4 << 20;

/// How long a publisher is not read when it outruns consumers that are busy (see docs/decisions/0005).
const CONGESTION_PAUSE: Duration = Duration::from_millis(1);

/// How long a client may take to answer connection.close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Without heartbeats the timer still ticks, to give back memory.
const IDLE_TICK: Duration = Duration::from_secs(60);

/// How far a client has come.
#[derive(Debug)]
enum Stage {
    Greeting(Greeting),
    /// Boxed, since idle clients are many.
    Open(Box<Session>),
    /// Only connection.close-ok is of interest.
    Ending,
    Over,
}

/// Whether alarms hold up this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blocked {
    No,
    /// It was not told: it does not understand, or is not yet in its virtual host.
    Silently,
    Told,
}

pub(super) struct Client {
    id: ConnectionId,
    peer: Peer,
    shared: Arc<Shared>,
    topology: Topology,
    alarms: Alarms,
    links: Option<Links>,
    protocol: Connection,
    stage: Stage,
    /// Where it is counted from connection.open on.
    place: Option<Place>,
    blocked: Blocked,
    /// What waits for room at a shard. While anything does, nothing is read.
    posts: VecDeque<Post>,
    pub(super) output: Output,
    last_read: Instant,
    last_write: Instant,
    /// The handshake or the close must be over by then; in between, the next look at heartbeats.
    deadline: Instant,
    /// Nothing is read until then, since consumers have to catch up.
    pause: Option<Instant>,
}

impl Client {
    pub(super) fn new(id: ConnectionId, peer: Peer, links: Links, shared: Arc<Shared>) -> Client {
        let limits = &shared.config.limits;
        let offer = Offer {
            frame_max: limits.frame_max,
            channel_max: limits.channel_max,
            heartbeat: limits.heartbeat_s,
            max_message_size: limits.message_size_max,
        };
        let now = Instant::now();
        Client {
            id,
            topology: shared.meta.topology().borrow().clone(),
            alarms: Alarms::default(),
            links: Some(links),
            protocol: Connection::new(offer),
            stage: Stage::Greeting(Greeting::new(id, peer.clone())),
            place: None,
            blocked: Blocked::No,
            posts: VecDeque::new(),
            output: Output::default(),
            last_read: now,
            last_write: now,
            deadline: now + limits.handshake_timeout,
            pause: None,
            peer,
            shared,
        }
    }

    pub(super) fn id(&self) -> ConnectionId {
        self.id
    }

    pub(super) fn deadline(&self) -> Instant {
        self.pause.map_or(self.deadline, |pause| pause.min(self.deadline))
    }

    /// Whether the socket can be closed.
    pub(super) fn is_over(&self) -> bool {
        // What was read is handed over, even if the client did not wait to see it.
        let gone = matches!(self.stage, Stage::Over) || (self.protocol.is_closed() && self.output.is_empty());
        gone && self.posts.is_empty()
    }

    /// Whether what arrives can be understood now: no alarm, no answer and no room to wait for.
    pub(super) fn can_read(&self) -> bool {
        match &self.stage {
            Stage::Over => false,
            Stage::Greeting(greeting) => !greeting.is_checking(),
            Stage::Ending => true,
            Stage::Open(session) => {
                let held_up = self.pause.is_some()
                    || self.blocked != Blocked::No
                    || !self.posts.is_empty()
                    || session.is_waiting();
                !held_up && self.output.len() < OUTPUT_MAX
            }
        }
    }

    /// How much may be read at once.
    pub(super) fn read_size(&self) -> usize {
        if matches!(self.stage, Stage::Greeting(_)) { STRANGER_READ_SIZE } else { READ_SIZE }
    }

    /// Room that the next post needs.
    pub(super) fn wants_room(&self) -> Option<(shard::Handle, usize)> {
        let (post, links) = (self.posts.front()?, self.links.as_ref()?);
        Some((links.shard(post.shard).clone(), post.bytes))
    }

    /// There is room for the next post.
    pub(super) fn send_with(&mut self, room: OwnedSemaphorePermit) {
        if let (Some(post), Some(links)) = (self.posts.pop_front(), &mut self.links) {
            links.send(post, room);
        }
    }

    /// Understands as much of `input` as it can; returns how many bytes are done with.
    pub(super) fn parse(&mut self, input: &[u8]) -> usize {
        self.last_read = Instant::now();
        let mut used = 0;
        while self.can_parse() {
            used += self.take_publishes(&input[used..]);
            let out = &mut self.output.bytes;
            let (step, outcome) = match self.protocol.receive(&input[used..], out) {
                Ok(step) => {
                    let outcome = match step.event {
                        Some(event) => handle(
                            &mut self.stage,
                            &event,
                            &self.shared,
                            &self.topology,
                            self.links.as_ref(),
                            out,
                        ),
                        None => Ok(Next::Wait),
                    };
                    (step.used, outcome)
                }
                Err(failure) => {
                    let used = failure.used;
                    (used, Err(Refusal::Protocol(failure)))
                }
            };
            used += step;
            let done = step == 0 && matches!(outcome, Ok(Next::Wait));
            self.follow(outcome);
            if done {
                break;
            }
        }
        used
    }

    /// Takes as many messages from the front of `input` as come in the usual form; how many bytes that was.
    fn take_publishes(&mut self, input: &[u8]) -> usize {
        let Stage::Open(session) = &mut self.stage else { return 0 };
        let mut used = 0;
        while let Some(publish) = self.protocol.receive_publish(&input[used..])
            && session.publish_again(&publish, &mut self.output.bytes)
        {
            used += publish.used;
        }
        used
    }

    /// Within one read only answers are waited for: alarms and room are looked at between reads.
    fn can_parse(&self) -> bool {
        match &self.stage {
            Stage::Open(session) => !session.is_waiting(),
            Stage::Over => false,
            Stage::Greeting(_) | Stage::Ending => !self.protocol.is_closed(),
        }
    }

    fn follow(&mut self, outcome: Result<Next, Refusal>) {
        match outcome {
            Ok(Next::Wait) => {}
            Ok(Next::Start(mechanisms)) => {
                greeting::send_start(&mut self.protocol, &mut self.output.bytes, &self.shared, mechanisms);
            }
            Ok(Next::Open(vhost, place)) => self.open(vhost, place),
            Ok(Next::Opened(channel)) => self.open_channel(channel),
            Ok(Next::Left(channel)) => self.close_place(channel),
            Ok(Next::Over) => self.leave(Stage::Ending),
            Err(Refusal::Protocol(failure)) => {
                self.log_refusal(failure.channel, &failure.error);
                self.protocol.fail(&mut self.output.bytes, &failure);
                self.after_refusal(failure.channel, &failure.error);
            }
            Err(Refusal::Request(channel, error)) => self.refuse(channel, &error),
        }
    }

    fn open(&mut self, vhost: Arc<str>, place: Place) {
        let Stage::Greeting(greeting) = &self.stage else {
            return;
        };
        let session = greeting.session(vhost, &self.protocol, self.topology.clone(), &self.shared);
        self.protocol.accept_open(&mut self.output.bytes);
        self.stage = Stage::Open(Box::new(session));
        self.place = Some(place);
        self.deadline = Instant::now() + self.tick_length();
        // The password may have been changed since it was checked.
        self.check_password();
    }

    fn open_channel(&mut self, channel: u16) {
        let Some(place) = &mut self.place else { return };
        match place.open_channel(&self.topology, channel) {
            Ok(()) => self.protocol.accept_channel(&mut self.output.bytes, channel),
            Err(error) => self.refuse(channel, &Error::new(error.amqp_code(), error.text)),
        }
    }

    fn close_place(&mut self, channel: u16) {
        if let Some(place) = &mut self.place {
            place.close_channel(channel);
        }
    }

    /// Closes a channel, or the connection when the error is a hard one.
    fn refuse(&mut self, channel: u16, error: &Error) {
        self.log_refusal(channel, error);
        if channel == 0 || error.is_hard() {
            self.protocol.close(&mut self.output.bytes, error);
        } else {
            self.protocol.close_channel(&mut self.output.bytes, channel, error);
        }
        self.after_refusal(channel, error);
    }

    fn after_refusal(&mut self, channel: u16, error: &Error) {
        if channel == 0 || error.is_hard() {
            self.leave(Stage::Ending);
        } else if let Stage::Open(session) = &mut self.stage {
            session.channel_closed(channel);
            self.close_place(channel);
        }
    }

    fn log_refusal(&self, channel: u16, error: &Error) {
        info!(connection = self.id.0, channel, error = escape(&error.to_string()), "refused");
    }

    /// What the client held goes back at once; what it published before still arrives.
    fn leave(&mut self, stage: Stage) {
        self.pass_on();
        self.stage = stage;
        self.place = None;
        self.deadline = Instant::now() + CLOSE_TIMEOUT;
        if self.posts.is_empty() {
            self.links = None;
        }
    }

    /// The socket is closed, or might as well be.
    pub(super) fn end(&mut self) {
        self.leave(Stage::Over);
        self.output = Output::default();
    }

    /// Takes what shards and the meta task have sent.
    pub(super) fn take_mail(&mut self, mails: &mut Vec<Mail>) {
        for mail in mails.drain(..) {
            match (&mut self.stage, mail) {
                (Stage::Greeting(greeting), Mail::Login(right)) => {
                    let (audit, out) = (&self.shared.audit, &mut self.output.bytes);
                    greeting.verified(right, &mut self.protocol, audit, out);
                }
                (Stage::Open(_), Mail::Effects(shard, effects)) => self.take_effects(shard, effects),
                (Stage::Open(session), Mail::Meta(token, result)) => {
                    if let Err((channel, error)) =
                        session.meta_answered(token, result, &mut self.output.bytes)
                    {
                        self.refuse(channel, &error);
                    }
                }
                _ => {}
            }
            if let Stage::Open(session) = &mut self.stage {
                session.browse();
            }
        }
    }

    /// What is refused on one channel is nothing to the others.
    fn take_effects(&mut self, shard: usize, effects: Vec<Effect>) {
        for effect in effects {
            let Stage::Open(session) = &mut self.stage else { return };
            if let Err((channel, error)) = session.effect(shard, effect, &mut self.output) {
                self.refuse(channel, &error);
            }
        }
    }

    /// There is a newer topology.
    pub(super) fn topology_changed(&mut self, topology: Topology) {
        self.topology = topology;
        let Stage::Open(session) = &mut self.stage else { return };
        for (channel, error) in session.update(self.topology.clone()) {
            self.refuse(channel, &error);
        }
        self.check_password();
    }

    /// Who came with a password that is no longer the one has to come again.
    fn check_password(&mut self) {
        if let Stage::Open(session) = &self.stage
            && let Some((checked, current)) = session.changed_password()
            && !self.shared.logins.are_of_one_password(checked, current)
        {
            self.refuse(0, &Error::connection_forced("the password was changed"));
        }
    }

    pub(super) fn alarms_changed(&mut self, alarms: Alarms) {
        self.alarms = alarms;
        self.block_or_go_on();
    }

    /// Alarms hold up clients that publish, and only those.
    fn block_or_go_on(&mut self) {
        let Stage::Open(session) = &self.stage else { return };
        let block = self.alarms.any() && session.has_published();
        match (block, self.blocked) {
            (true, Blocked::No) => {
                self.blocked = Blocked::Silently;
                if self.protocol.capabilities().connection_blocked {
                    self.blocked = Blocked::Told;
                    let blocked = connection::Blocked { reason: self.alarms.reason() };
                    frame::method(&mut self.output.bytes, 0, &Method::ConnectionBlocked(blocked));
                }
            }
            (false, Blocked::Silently | Blocked::Told) => {
                if self.blocked == Blocked::Told {
                    frame::method(
                        &mut self.output.bytes,
                        0,
                        &Method::ConnectionUnblocked(connection::Unblocked {}),
                    );
                }
                self.blocked = Blocked::No;
                self.last_read = Instant::now();
            }
            _ => {}
        }
    }

    /// The broker stops.
    pub(super) fn stop(&mut self) {
        match self.stage {
            Stage::Open(_) => {
                let text = "broker forced connection closure with reason 'shutdown'";
                self.refuse(0, &Error::connection_forced(text));
            }
            Stage::Greeting(_) => self.stage = Stage::Over,
            Stage::Ending | Stage::Over => {}
        }
    }

    /// Hands over what the session has for others.
    pub(super) fn pass_on(&mut self) {
        if let Stage::Open(session) = &mut self.stage {
            session.finish_round(&mut self.output.bytes);
            self.posts.extend(session.take_posts());
        }
        let Some(links) = &mut self.links else { return };
        while let Some(post) = self.posts.pop_front() {
            if post.bytes > 0 && links.shard(post.shard).is_congested() {
                self.pause = Some(Instant::now() + CONGESTION_PAUSE);
            }
            if let Err(post) = links.try_send(post) {
                self.posts.push_front(post);
                return;
            }
        }
        match &mut self.stage {
            // After all posts: what was published before a change must not be overtaken by it.
            Stage::Open(session) => {
                session.take_changes().into_iter().for_each(|(token, change)| links.change(token, change))
            }
            Stage::Ending | Stage::Over => self.links = None,
            Stage::Greeting(_) => {}
        }
        if self.alarms.any() {
            self.block_or_go_on();
        }
    }

    /// Writes what the socket takes.
    pub(super) fn flush(&mut self, stream: &mut Stream) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        if self.output.flush(stream)? {
            self.last_write = Instant::now();
        }
        if self.output.is_empty()
            && let Stage::Open(session) = &mut self.stage
        {
            session.written();
            self.pass_on();
        }
        Ok(())
    }

    /// A deadline has come.
    pub(super) fn tick(&mut self) {
        if self.pause.take().is_some() {
            return;
        }
        match self.stage {
            Stage::Open(_) => self.beat(),
            Stage::Greeting(_) => {
                warn!(connection = self.id.0, peer = %self.peer.address, "the handshake took too long");
                self.stage = Stage::Over;
            }
            Stage::Ending | Stage::Over => self.end(),
        }
    }

    /// Heartbeats: one goes out when nothing else does; a client that says nothing for two intervals is gone. While it
    /// is not read, because it is blocked or does not read itself, its silence says nothing.
    fn beat(&mut self) {
        let now = Instant::now();
        let heartbeat = self.heartbeat();
        if !self.can_read() {
            self.last_read = now;
        }
        if !heartbeat.is_zero() {
            if now - self.last_read > 2 * heartbeat + Duration::from_secs(1) {
                warn!(connection = self.id.0, peer = %self.peer.address, "missed heartbeats from the client");
                self.end();
                return;
            }
            if now - self.last_write >= heartbeat / 2 && self.output.is_empty() {
                frame::heartbeat(&mut self.output.bytes);
            }
        }
        self.output.shrink();
        self.deadline = now + self.tick_length();
    }

    fn heartbeat(&self) -> Duration {
        Duration::from_secs(self.protocol.negotiated().heartbeat.into())
    }

    fn tick_length(&self) -> Duration {
        let heartbeat = self.heartbeat();
        if heartbeat.is_zero() { IDLE_TICK } else { heartbeat / 2 }
    }
}

/// Why something that a client sent was refused.
enum Refusal {
    /// It was not AMQP as agreed.
    Protocol(Failure),
    /// It was not allowed or not possible; the channel that closes, 0 for the connection.
    Request(u16, Error),
}

/// Lets the stage make sense of an event. Apart from `Client`, since the event borrows from its protocol.
fn handle(
    stage: &mut Stage,
    event: &Event<'_>,
    shared: &Arc<Shared>,
    topology: &Topology,
    links: Option<&Links>,
    out: &mut Vec<u8>,
) -> Result<Next, Refusal> {
    match (stage, links) {
        (Stage::Greeting(greeting), Some(links)) => {
            greeting.event(event, shared, topology, links).map_err(|error| Refusal::Request(0, error))
        }
        (Stage::Open(session), _) => handle_open(session, event, out),
        _ => Ok(Next::Wait),
    }
}

fn handle_open(session: &mut Session, event: &Event<'_>, out: &mut Vec<u8>) -> Result<Next, Refusal> {
    match event {
        Event::Publish { channel, method, properties, body } => {
            let published = session.publish(*channel, *method, *properties, body, out);
            published.map_err(|error| Refusal::Request(*channel, error))?;
        }
        Event::Method { channel, method } => {
            session.method(*channel, method, out).map_err(|error| Refusal::Request(*channel, error))?;
        }
        Event::ChannelOpened { channel } => {
            session.channel_opened(*channel);
            return Ok(Next::Opened(*channel));
        }
        Event::ChannelClosed { channel } => {
            session.channel_closed(*channel);
            return Ok(Next::Left(*channel));
        }
        Event::Closed => return Ok(Next::Over),
        _ => {}
    }
    Ok(Next::Wait)
}
