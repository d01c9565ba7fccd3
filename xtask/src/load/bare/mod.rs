//! A bare program in place of a broker: the yardstick for durable messages.
//!
//! It does for one producer, one queue and one consumer what no durable broker can leave out: it reads the publishes,
//! appends their bodies to a file, syncs, confirms, and writes deliveries. There is no queue in it, no routing, nothing
//! that is looked up, and acknowledgements are ignored. AMQP is encoded and decoded by Leveret's own crate, so that the
//! difference between the two is what a broker adds.

mod journal;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use amqp::content::{self, Deliver, Message, put_exchange_and_key};
use amqp::frame;
use amqp::method::{Method, basic, channel, confirm, exchange, queue};
use amqp::server::{Connection, Event, Offer};
use amqp::table::Table;
use anyhow::{Context, Result, anyhow};
use clap::Parser;

use journal::Journal;

/// Bytes that one read may bring, as with the broker.
const READ_SIZE: usize = 256 << 10;

const OFFER: Offer =
    Offer { frame_max: 131_072, channel_max: 2047, heartbeat: 0, max_message_size: 16 << 20 };

/// Serve one producer, one queue and one consumer with a bare program.
///
/// Publishes are appended to a file, synced with whatever has gathered while the last sync ran, confirmed, and
/// delivered, and nothing else is done: this is what `leveret perf --persistent --confirm N` costs without a broker. It
/// runs until it is killed.
#[derive(Debug, Parser)]
#[command(
    after_help = "Example:\n  cargo xtask bare-broker --listen 127.0.0.1:5673 --directory /tmp\n  leveret perf --url amqp://127.0.0.1:5673 --persistent --confirm 1000 --ack 250"
)]
pub(super) struct BareBroker {
    /// Where to listen; with port 0 on any free port
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Directory for the file, on the disk that is to be measured
    #[arg(long, value_name = "DIRECTORY", default_value = ".")]
    directory: PathBuf,
}

impl BareBroker {
    pub(super) fn run(&self) -> Result<()> {
        let journal = Journal::start(&self.directory)?;
        let listener =
            TcpListener::bind(self.listen).with_context(|| format!("cannot listen at {}", self.listen))?;
        println!("bare-broker: listening for AMQP on {}", listener.local_addr()?);
        let shared = Arc::new(Shared { consumer: Mutex::default(), attached: Condvar::new(), journal });
        for (number, stream) in (0..).zip(listener.incoming()) {
            let (stream, shared) = (stream?, Arc::clone(&shared));
            stream.set_nodelay(true)?;
            std::thread::spawn(move || {
                if let Err(error) = Client::new(&stream, number, &shared).serve() {
                    eprintln!("bare-broker: connection {number}: {error:#}");
                }
                shared.detach(number);
            });
        }
        Ok(())
    }
}

/// What connections have in common.
#[derive(Debug)]
struct Shared {
    consumer: Mutex<Option<Arc<Consumer>>>,
    /// Somebody consumes now.
    attached: Condvar,
    journal: Journal,
}

/// Where deliveries go.
#[derive(Debug)]
struct Consumer {
    connection: u64,
    socket: TcpStream,
    channel: u16,
    tag: String,
    frame_max: u32,
}

impl Shared {
    fn consumer(&self) -> MutexGuard<'_, Option<Arc<Consumer>>> {
        self.consumer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attach(&self, consumer: Consumer) {
        *self.consumer() = Some(Arc::new(consumer));
        self.attached.notify_all();
    }

    fn detach(&self, connection: u64) {
        self.consumer().take_if(|consumer| consumer.connection == connection);
    }

    /// There is no queue in which messages could wait for a consumer.
    fn wait_for_consumer(&self) -> Arc<Consumer> {
        let mut consumer = self.consumer();
        loop {
            if let Some(consumer) = &*consumer {
                return Arc::clone(consumer);
            }
            consumer = self.attached.wait(consumer).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// One connection.
struct Client<'a> {
    stream: &'a TcpStream,
    number: u64,
    shared: &'a Shared,
    /// Publishes so far, if they are confirmed.
    published: Option<u64>,
    /// Of a producer: where its messages go, and how many went.
    consumer: Option<Arc<Consumer>>,
    delivered: u64,
    /// Written when everything that was read has been looked at: answers, deliveries.
    out: Vec<u8>,
    deliveries: Vec<u8>,
    bodies: Vec<u8>,
    address: Vec<u8>,
}

impl Client<'_> {
    fn new<'a>(stream: &'a TcpStream, number: u64, shared: &'a Shared) -> Client<'a> {
        Client {
            stream,
            number,
            shared,
            published: None,
            consumer: None,
            delivered: 0,
            out: Vec::new(),
            deliveries: Vec::new(),
            bodies: Vec::new(),
            address: Vec::new(),
        }
    }

    fn serve(&mut self) -> Result<()> {
        let mut connection = Connection::new(OFFER);
        let mut input = vec![0; 2 * READ_SIZE];
        let mut left = 0;
        while !connection.is_closed() {
            let space = input.get_mut(left..left + READ_SIZE).context("a frame is too long")?;
            match self.stream.read(space)? {
                0 => return Ok(()),
                size => left += size,
            }
            let used = self.take_all(&mut connection, input.get(..left).unwrap_or_default())?;
            input.copy_within(used..left, 0);
            left -= used;
            self.finish_read()?;
        }
        Ok(())
    }

    /// Looks at all that was read; how much of it is done with.
    fn take_all(&mut self, connection: &mut Connection, input: &[u8]) -> Result<usize> {
        let mut out = std::mem::take(&mut self.out);
        let mut used = 0;
        loop {
            let frame_max = connection.negotiated().frame_max;
            let rest = input.get(used..).unwrap_or_default();
            let step = connection
                .receive(rest, &mut out)
                .map_err(|failure| anyhow!("the client is wrong: {}", failure.error.reply_text()))?;
            used += step.used;
            match step.event {
                Some(Event::ProtocolHeader) => connection.send_start(&mut out, Table::EMPTY, "PLAIN"),
                Some(Event::Login { .. }) => connection.accept_login(&mut out),
                Some(Event::Open { .. }) => connection.accept_open(&mut out),
                Some(Event::ChannelOpened { channel }) => connection.accept_channel(&mut out, channel),
                Some(Event::Method { channel, method }) => {
                    self.answer(&mut out, channel, &method, frame_max)?;
                }
                Some(Event::Publish { method, properties, body, .. }) => {
                    self.take_publish(&method, properties.as_bytes(), body);
                }
                Some(
                    Event::Response { .. } | Event::ChannelClosed { .. } | Event::Heartbeat | Event::Closed,
                ) => {}
                None if step.used == 0 => break,
                None => {}
            }
        }
        self.out = out;
        Ok(used)
    }

    /// Says yes to everything. There is nothing to be done for it but to remember who consumes.
    fn answer(&mut self, out: &mut Vec<u8>, channel: u16, method: &Method<'_>, frame_max: u32) -> Result<()> {
        let answer = match method {
            Method::ExchangeDeclare(_) => Method::ExchangeDeclareOk(exchange::DeclareOk {}),
            Method::ExchangeDelete(_) => Method::ExchangeDeleteOk(exchange::DeleteOk {}),
            Method::QueueDeclare(queue::Declare { queue, .. }) => {
                Method::QueueDeclareOk(queue::DeclareOk { queue, message_count: 0, consumer_count: 0 })
            }
            Method::QueueBind(_) => Method::QueueBindOk(queue::BindOk {}),
            Method::QueueDelete(_) => Method::QueueDeleteOk(queue::DeleteOk { message_count: 0 }),
            Method::BasicQos(_) => Method::BasicQosOk(basic::QosOk {}),
            Method::ConfirmSelect(_) => {
                self.published = Some(0);
                Method::ConfirmSelectOk(confirm::SelectOk {})
            }
            Method::BasicConsume(consume) => {
                self.attach(channel, consume.consumer_tag, frame_max)?;
                if consume.nowait {
                    return Ok(());
                }
                Method::BasicConsumeOk(basic::ConsumeOk { consumer_tag: consume.consumer_tag })
            }
            Method::BasicAck(_) => return Ok(()),
            Method::ChannelClose(_) => Method::ChannelCloseOk(channel::CloseOk {}),
            other => return Err(anyhow!("{} is more than this program can do", other.name())),
        };
        frame::method(out, channel, &answer);
        Ok(())
    }

    fn attach(&self, channel: u16, tag: &str, frame_max: u32) -> Result<()> {
        let socket = self.stream.try_clone().context("cannot share a socket")?;
        let (connection, tag) = (self.number, tag.to_owned());
        self.shared.attach(Consumer { connection, socket, channel, tag, frame_max });
        Ok(())
    }

    fn take_publish(&mut self, method: &basic::Publish<'_>, properties: &[u8], body: &[u8]) {
        let consumer = self.consumer.get_or_insert_with(|| self.shared.wait_for_consumer());
        self.published = self.published.map(|published| published + 1);
        self.bodies.extend_from_slice(body);
        self.address.clear();
        put_exchange_and_key(&mut self.address, method.exchange, method.routing_key);
        let message = Message { exchange_and_key: &self.address, properties, body };
        self.delivered += 1;
        let deliver =
            Deliver { consumer_tag: &consumer.tag, delivery_tag: self.delivered, redelivered: false };
        content::deliver(&mut self.deliveries, consumer.channel, deliver, message, consumer.frame_max);
    }

    /// The journal gets all bodies of a read at once, and the consumer all deliveries.
    fn finish_read(&mut self) -> Result<()> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        if let Some(consumer) = self.consumer.as_ref().filter(|_| !self.deliveries.is_empty()) {
            self.shared.journal.append(&mut self.bodies, self.published, self.stream)?;
            // A consumer that has gone is no business of the producer.
            (&consumer.socket).write_all(&self.deliveries).ok();
            self.deliveries.clear();
        }
        Ok(())
    }
}
