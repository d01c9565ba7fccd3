//! What one client does, after its handshake: its channels, consumers and publishes. No I/O.
//!
//! How the connection task drives it:
//! 1. `method` and `publish` for every event, while `is_waiting` says no. An error closes the channel or the connection.
//! 2. `mail` for everything that shards and the meta task send. It may end a wait.
//! 3. `finish_round`, then carry out `posts`. Bytes for the client have been appended to `out` all along.
//!
//! This is the only place that checks access, and the only one that knows delivery tags and confirm numbers.

mod acks;
mod answers;
mod channel;
mod confirm;
mod consume;
mod copies;
mod delays;
mod drafts;
mod exchanges;
mod history;
mod outgoing;
mod publish;
mod queues;
mod reply_to;
mod routes;
mod tx;

use std::collections::VecDeque;
use std::sync::Arc;

use amqp::error::Error;
use amqp::frame;
use amqp::method::{Method, basic};
use broker::access::{Operation, Resource};
use broker::id::{ConnectionId, QueueId};
use broker::meta::Change;
use broker::password::PasswordHash;
use broker::shard::{Command, Confirm, Effect, Request};
use broker::topology::{Exchange, ExchangeKind, Topology};
use rustc_hash::FxHashMap;

use crate::output::Output;
use crate::random::Random;
use answers::Awaited;
use channel::{Channel, Consumer, Unacked};
use delays::Browser;
use outgoing::Outgoing;
pub(crate) use outgoing::Post;
use routes::Routes;

/// Consumers that one channel may have.
const CONSUMERS_MAX: usize = 2048;

/// Class and method id of basic.consume.
const CONSUME: (u16, u16) = (60, 20);

/// Who the client is and what it agreed to.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) connection: ConnectionId,
    pub(crate) user: Arc<str>,
    /// The hash that its password was checked against, if it came with one.
    pub(crate) password: Option<PasswordHash>,
    pub(crate) vhost: Arc<str>,
    /// Bytes of a frame; 0: no limit.
    pub(crate) frame_max: u32,
    /// The client wants to hear of consumers that the server cancels.
    pub(crate) consumer_cancel_notify: bool,
    /// How long a consumer may hold a message, unless it or its queue says otherwise.
    pub(crate) consumer_timeout_ms: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    identity: Identity,
    topology: Topology,
    channels: FxHashMap<u16, Channel>,
    /// By the number under which shards know them.
    consumers: FxHashMap<u32, Consumer>,
    next_consumer: u32,
    routes: Routes,
    /// For exchanges that pick by chance.
    random: Random,
    outgoing: Outgoing,
    /// The one answer that the client waits for. Until it is here, nothing more is read.
    awaited: Option<(u64, Awaited)>,
    next_token: u64,
    /// Channels in confirm mode, by the number under which shards know them: a channel's own number is used again.
    publishers: FxHashMap<u32, u16>,
    next_publisher: u32,
    /// Channels with news for their publishers.
    confirmed: Vec<u16>,
    changes: Vec<(u64, Change)>,
    has_published: bool,
    /// What an ack settles; empty between acks.
    taken: Vec<Unacked>,
    /// Consumers that are shown what waits for its time: one at a time.
    browsers: VecDeque<Browser>,
}

/// The result of something a client asked for.
pub(crate) type Outcome = Result<(), Error>;

impl Session {
    pub(crate) fn new(identity: Identity, topology: Topology, shards: usize) -> Session {
        Session {
            identity,
            topology,
            channels: FxHashMap::default(),
            consumers: FxHashMap::default(),
            next_consumer: 1,
            routes: Routes::default(),
            random: Random::new(),
            outgoing: Outgoing::new(shards),
            awaited: None,
            next_token: 1,
            publishers: FxHashMap::default(),
            next_publisher: 1,
            confirmed: Vec::new(),
            changes: Vec::new(),
            has_published: false,
            taken: Vec::new(),
            browsers: VecDeque::new(),
        }
    }

    /// There is a newer topology. The channels, or the connection, that this user has no business in any more, and why.
    pub(crate) fn update(&mut self, topology: Topology) -> Vec<(u16, Error)> {
        let Identity { user, vhost, .. } = &self.identity;
        let permissions = |topology: &Topology| topology.access().permissions_in(user, vhost).cloned();
        let is_news = permissions(&self.topology) != permissions(&topology);
        self.topology = topology;
        match self.may_stay() {
            Err(error) => vec![(0, error)],
            Ok(()) if is_news => self.lost_channels(),
            Ok(()) => Vec::new(),
        }
    }

    fn may_stay(&self) -> Outcome {
        let Identity { user, vhost, .. } = &self.identity;
        let gone =
            |what: &str| Err(Error::connection_forced(format!("{what} was deleted or lost its access")));
        if self.topology.vhost(vhost).is_none() {
            return gone(&format!("vhost '{vhost}'"));
        }
        let access = self.topology.access();
        if access.user(user).is_none() || access.may_enter(user, vhost).is_err() {
            return gone(&format!("user '{user}'"));
        }
        Ok(())
    }

    /// The channels with consumers of queues that this user may no longer read.
    fn lost_channels(&self) -> Vec<(u16, Error)> {
        let refusal = |consumer: &Consumer| {
            let queue = self.topology.queue_by_id(consumer.queue)?;
            let refused = self.authorize(Operation::Read, Resource::Queue(&queue.name));
            Some((consumer.channel, refused.err()?.at(CONSUME)))
        };
        let mut lost: Vec<_> = self.consumers.values().filter_map(refusal).collect();
        lost.sort_unstable_by_key(|(channel, _)| *channel);
        lost.dedup_by_key(|(channel, _)| *channel);
        lost
    }

    /// The hash that the password was checked against and the one there is now, if that is another.
    pub(crate) fn changed_password(&self) -> Option<(&PasswordHash, &PasswordHash)> {
        let checked = self.identity.password.as_ref()?;
        let user = self.topology.access().user(&self.identity.user)?;
        (*checked != user.password).then_some((checked, &user.password))
    }

    /// Whether an answer must come before the next event can be handled.
    pub(crate) fn is_waiting(&self) -> bool {
        self.awaited.is_some()
    }

    /// Whether the client publishes: only those who do are blocked by alarms.
    pub(crate) fn has_published(&self) -> bool {
        self.has_published
    }

    /// The client opened a channel.
    pub(crate) fn channel_opened(&mut self, number: u16) {
        self.channels.insert(number, Channel::default());
    }

    /// A channel is over, whoever closed it: its consumers stop and what it holds goes back.
    pub(crate) fn channel_closed(&mut self, number: u16) {
        let Some(channel) = self.channels.remove(&number) else {
            return;
        };
        self.consumers.retain(|_, consumer| consumer.channel != number);
        self.publishers.retain(|_, channel| *channel != number);
        if channel.has_taken {
            self.outgoing.send_to_known(&Command::CloseChannel(number));
        }
    }

    /// Handles a method of a channel (or connection.update-secret).
    pub(crate) fn method(&mut self, number: u16, method: &Method<'_>, out: &mut Vec<u8>) -> Outcome {
        self.handle(number, method, out).map_err(|error| blame(error, method.id()))
    }

    fn handle(&mut self, number: u16, method: &Method<'_>, out: &mut Vec<u8>) -> Outcome {
        match method {
            Method::BasicAck(ack) => self.ack(number, *ack),
            Method::BasicNack(nack) => self.nack(number, *nack),
            Method::BasicReject(reject) => self.reject(number, *reject),
            Method::BasicRecover(recover) => {
                self.recover(number, recover.requeue)?;
                reply(out, number, &Method::BasicRecoverOk(amqp::method::basic::RecoverOk {}))
            }
            Method::BasicRecoverAsync(recover) => self.recover(number, recover.requeue),
            Method::BasicQos(qos) => self.qos(number, *qos, out),
            Method::BasicConsume(consume) => self.consume(number, consume, out),
            Method::BasicCancel(cancel) => self.cancel(number, cancel, out),
            Method::BasicGet(get) => self.get(number, get),
            Method::QueueDeclare(declare) => self.declare_queue(number, declare, out),
            Method::QueueBind(bind) => self.bind_queue(number, bind),
            Method::QueueUnbind(unbind) => self.unbind_queue(number, unbind),
            Method::QueuePurge(purge) => self.purge(number, purge),
            Method::QueueDelete(delete) => self.delete_queue(number, delete, out),
            Method::ExchangeDeclare(declare) => self.declare_exchange(number, declare, out),
            Method::ExchangeDelete(delete) => self.delete_exchange(number, delete),
            Method::ExchangeBind(bind) => self.bind_exchange(number, bind),
            Method::ExchangeUnbind(unbind) => self.unbind_exchange(number, unbind),
            Method::ConfirmSelect(select) => self.select_confirms(number, *select, out),
            Method::TxSelect(_) => self.select_tx(number, out),
            Method::TxCommit(_) => self.commit(number, out),
            Method::TxRollback(_) => self.rollback(number, out),
            Method::ChannelFlow(flow) => self.flow(number, *flow, out),
            Method::AccessRequest(_) => {
                reply(out, number, &Method::AccessRequestOk(amqp::method::access::RequestOk { ticket: 1 }))
            }
            // A password that was right stays right until the connection ends, as with RabbitMQ's own users.
            Method::ConnectionUpdateSecret(_) => reply(
                out,
                number,
                &Method::ConnectionUpdateSecretOk(amqp::method::connection::UpdateSecretOk {}),
            ),
            other => Err(Error::command_invalid(format!("{} is not for clients to send", other.name()))),
        }
    }

    /// Takes what a shard sends. An error is about a channel, and the effects that follow may be about others.
    pub(crate) fn effect(
        &mut self,
        shard: usize,
        effect: Effect,
        out: &mut Output,
    ) -> Result<(), (u16, Error)> {
        match effect {
            Effect::Deliver(delivery) => self.deliver(shard, &delivery, out),
            Effect::Confirm(Confirm { publisher, first, last }) => self.safe(publisher, first, last),
            Effect::Refused(Confirm { publisher, first, last }) => self.refused(publisher, first, last),
            Effect::TimedOut(consumer, timeout_ms) => return self.timed_out(consumer, timeout_ms),
            Effect::Forward(_) => {}
            Effect::Reply(token, result) => return self.shard_answered(token, result, &mut out.bytes),
            Effect::Cancelled(consumer) => self.cancelled(consumer, &mut out.bytes),
        }
        Ok(())
    }

    /// Writes the confirms that are due and packs what goes to shards.
    pub(crate) fn finish_round(&mut self, out: &mut Vec<u8>) {
        for number in std::mem::take(&mut self.confirmed) {
            if let Some(confirms) =
                self.channels.get_mut(&number).and_then(|channel| channel.confirms.as_mut())
            {
                for delivery_tag in confirms.nacks() {
                    let nack = basic::Nack { delivery_tag, multiple: false, requeue: false };
                    frame::method(out, number, &Method::BasicNack(nack));
                }
                confirms.acks(|ack| frame::ack(out, number, ack.number, ack.multiple));
            }
        }
        self.outgoing.pack();
    }

    /// What to send to shards, in this order.
    pub(crate) fn take_posts(&mut self) -> Vec<Post> {
        self.outgoing.take_posts()
    }

    /// What to ask of the meta task, with the token of the answer.
    pub(crate) fn take_changes(&mut self) -> Vec<(u64, Change)> {
        std::mem::take(&mut self.changes)
    }

    /// All bytes so far are written to the socket: shards may send more.
    pub(crate) fn written(&mut self) {
        self.outgoing.report_written();
        self.browse_on();
    }

    fn channel(&mut self, number: u16) -> Result<&mut Channel, Error> {
        let missing = || Error::channel_error(format!("channel {number} is not open"));
        self.channels.get_mut(&number).ok_or_else(missing)
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// Sends a request to the shard of a queue and waits for its answer.
    fn ask(&mut self, queue: QueueId, request: Request, awaited: Awaited) {
        let token = self.token();
        self.outgoing.request(queue, Command::Request(token, request));
        self.awaited = Some((token, awaited));
    }

    /// Asks all shards that know this session to answer when all before is done; with which token, and how many they are.
    fn ask_known(&mut self) -> Option<(u64, usize)> {
        self.outgoing.pack();
        let (token, shards) = (self.token(), self.outgoing.known());
        for shard in &shards {
            self.outgoing.send(*shard, Command::Request(token, Request::Sync));
        }
        (!shards.is_empty()).then_some((token, shards.len()))
    }

    /// Asks the meta task for a change and waits for its answer.
    fn change(&mut self, change: Change, awaited: Awaited) {
        // What was published before must be routed as it was: it has been, but it must also arrive before.
        self.outgoing.pack();
        let token = self.token();
        self.changes.push((token, change));
        self.awaited = Some((token, awaited));
    }

    fn authorize(&self, operation: Operation, resource: Resource<'_>) -> Outcome {
        let Identity { user, vhost, .. } = &self.identity;
        self.topology.access().authorize(user, vhost, operation, resource).map_err(|error| refused(&error))
    }

    /// Whether this user may use a key of an exchange, which matters for topic exchanges only.
    fn authorize_key(&self, operation: Operation, exchange: &Exchange, key: &str) -> Outcome {
        if exchange.routing_kind() != ExchangeKind::Topic {
            return Ok(());
        }
        let (Identity { user, vhost, .. }, access) = (&self.identity, self.topology.access());
        let allowed = access.authorize_topic(user, vhost, operation, &exchange.name, key);
        allowed.map_err(|error| refused(&error))
    }

    /// Whether this user may bind to an exchange with a key. One that does not exist is for the meta task to refuse.
    fn authorize_source(&self, exchange: &str, key: &str) -> Outcome {
        let exchange = clean(exchange);
        self.authorize(Operation::Read, Resource::Exchange(&exchange))?;
        match self.topology.exchange(&self.identity.vhost, &exchange) {
            Some(exchange) => self.authorize_key(Operation::Read, exchange, key),
            None => Ok(()),
        }
    }

    /// The queue a method names: on an empty name the one declared last on the channel. Another connection's exclusive
    /// queue is refused.
    fn queue_named(&mut self, number: u16, name: &str) -> Result<Arc<broker::topology::Queue>, Error> {
        let name = self.channel(number)?.queue_or_last(name)?;
        self.find_queue(&name)
    }

    fn find_queue(&self, name: &str) -> Result<Arc<broker::topology::Queue>, Error> {
        let vhost = self.topology.find_vhost(&self.identity.vhost).map_err(|error| refused(&error))?;
        let queue = vhost.find_queue(name).map_err(|error| refused(&error))?;
        queue.check_owner(Some(self.identity.connection)).map_err(|error| refused(&error))?;
        Ok(Arc::clone(queue))
    }
}

/// The broker's error as the protocol says it.
fn refused(error: &broker::error::Error) -> Error {
    Error::new(error.amqp_code(), error.text.clone())
}

/// Says which method failed, unless the error knows better.
fn blame(error: Error, method: (u16, u16)) -> Error {
    if error.method == (0, 0) { error.at(method) } else { error }
}

fn reply(out: &mut Vec<u8>, channel: u16, method: &Method<'_>) -> Outcome {
    frame::method(out, channel, method);
    Ok(())
}

/// Names travel without line ends, as RabbitMQ reads them.
fn clean(name: &str) -> std::borrow::Cow<'_, str> {
    if name.contains(['\r', '\n']) { name.replace(['\r', '\n'], "").into() } else { name.into() }
}
