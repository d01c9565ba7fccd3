//! A client that does what it is told.

use std::collections::VecDeque;
use std::net::SocketAddr;

use amqp::capabilities::Capabilities;
use amqp::content;
use amqp::frame;
use amqp::method::{Method, basic, channel, confirm, connection, exchange, queue};
use amqp::properties::PropertiesBuilder;
use amqp::receiver::{Limits, Receiver, Side};
use amqp::table::{Table, TableBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::heard::{self, Close, Heard, Message, Plain};
use crate::{PATIENCE, within};

/// Who the client is and what it agrees to.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) vhost: String,
    pub(crate) capabilities: Capabilities,
    pub(crate) frame_max: u32,
    pub(crate) channel_max: u16,
    pub(crate) heartbeat: u16,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            user: "guest".to_owned(),
            password: "guest".to_owned(),
            vhost: "/".to_owned(),
            capabilities: Capabilities::ALL,
            frame_max: 131_072,
            channel_max: 2047,
            heartbeat: 0,
        }
    }
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    receiver: Receiver,
    input: Vec<u8>,
    /// Heard, and not yet asked for.
    pending: VecDeque<Heard>,
    options: Options,
}

/// Properties that make a message survive.
pub(crate) fn persistent() -> PropertiesBuilder<'static> {
    PropertiesBuilder { delivery_mode: Some(2), ..PropertiesBuilder::default() }
}

/// A durable queue, to be declared.
pub(crate) fn durable(queue: &str) -> queue::Declare<'_> {
    queue::Declare { durable: true, ..transient(queue) }
}

/// A queue that does not survive.
pub(crate) fn transient(queue: &str) -> queue::Declare<'_> {
    queue::Declare {
        queue,
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Table::default(),
    }
}

/// A plain consumer.
pub(crate) fn consumer<'a>(queue: &'a str, tag: &'a str) -> basic::Consume<'a> {
    basic::Consume {
        queue,
        consumer_tag: tag,
        no_local: false,
        no_ack: false,
        exclusive: false,
        nowait: false,
        arguments: Table::default(),
    }
}

impl Client {
    /// A socket, with nothing said.
    pub(crate) async fn dial(address: SocketAddr) -> Client {
        let stream = within(PATIENCE, "connecting", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let limits = Limits { frame_max: 0, channel_max: 0, max_message_size: 512 << 20 };
        let receiver = Receiver::new(Side::Client, limits);
        let (input, pending) = (Vec::new(), VecDeque::new());
        Client { stream, receiver, input, pending, options: Options::default() }
    }

    /// A guest with channel 1 open.
    pub(crate) async fn connect(address: SocketAddr) -> Client {
        let mut client = Client::connect_with(address, Options::default()).await;
        client.open(1).await;
        client
    }

    pub(crate) async fn connect_with(address: SocketAddr, options: Options) -> Client {
        let mut client = Client::dial(address).await;
        client.login(options).await;
        client.tune().await;
        client.enter().await;
        client.expect(0, (10, 41)).await;
        client
    }

    /// Up to connection.start-ok.
    pub(crate) async fn login(&mut self, options: Options) {
        self.write(&frame::PROTOCOL_HEADER).await;
        self.expect(0, (10, 10)).await;
        self.options = options;
        self.start_ok().await;
    }

    /// connection.start-ok.
    pub(crate) async fn start_ok(&mut self) {
        let Options { user, password, capabilities, .. } = &self.options;
        let capabilities = capabilities.to_table();
        let properties = TableBuilder::new().with("capabilities", capabilities.as_table());
        let response = format!("\0{user}\0{password}");
        let start_ok = connection::StartOk {
            client_properties: properties.as_table(),
            mechanism: "PLAIN",
            response: response.as_bytes(),
            locale: "en_US",
        };
        let mut out = Vec::new();
        frame::method(&mut out, 0, &Method::ConnectionStartOk(start_ok));
        self.write(&out).await;
    }

    /// connection.tune and its answer.
    pub(crate) async fn tune(&mut self) {
        self.expect(0, (10, 30)).await;
        let Options { channel_max, frame_max, heartbeat, .. } = self.options;
        let tune_ok = connection::TuneOk { channel_max, frame_max, heartbeat };
        self.send(0, Method::ConnectionTuneOk(tune_ok)).await;
    }

    /// connection.open.
    pub(crate) async fn enter(&mut self) {
        let vhost = self.options.vhost.clone();
        self.send(0, Method::ConnectionOpen(connection::Open { vhost: &vhost })).await;
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        within(PATIENCE, "writing", self.stream.write_all(bytes)).await.unwrap();
    }

    pub(crate) async fn send(&mut self, channel: u16, method: Method<'_>) {
        self.note(channel, &method);
        let mut out = Vec::new();
        frame::method(&mut out, channel, &method);
        self.write(&out).await;
    }

    /// Our own receiver must know what is open.
    pub(crate) fn note(&mut self, channel: u16, method: &Method<'_>) {
        match method {
            Method::ChannelOpen(_) => self.receiver.open(channel),
            Method::ChannelClose(_) => self.receiver.close(channel),
            _ => {}
        }
    }

    /// The next thing the server says, whatever it is.
    pub(crate) async fn hear(&mut self) -> Heard {
        match self.pending.pop_front() {
            Some(heard) => heard,
            None => within(PATIENCE, "hearing from the server", self.listen()).await,
        }
    }

    /// Reads until there is something new.
    async fn listen(&mut self) -> Heard {
        loop {
            while let Some((used, heard)) = heard::next(&mut self.receiver, &self.input) {
                self.input.drain(..used);
                if let Some(heard) = heard {
                    return heard;
                }
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return Heard::End,
                Ok(_) => {}
            }
        }
    }

    /// The first thing that `wanted` takes. What comes before it is kept. A close that nobody asked for is a failure.
    pub(crate) async fn find<T>(&mut self, what: &str, mut wanted: impl FnMut(&Heard) -> Option<T>) -> T {
        let found = self.pending.iter().enumerate().find_map(|(at, heard)| Some((at, wanted(heard)?)));
        if let Some((at, value)) = found {
            self.pending.remove(at);
            return value;
        }
        loop {
            let heard = within(PATIENCE, what, self.listen()).await;
            if let Some(value) = wanted(&heard) {
                return value;
            }
            let over = matches!(heard, Heard::ChannelClosed(..) | Heard::ConnectionClosed(_) | Heard::End);
            assert!(!over, "waiting for: {what}; heard {heard:?}");
            self.pending.push_back(heard);
        }
    }

    /// A method without content.
    pub(crate) async fn expect(&mut self, channel: u16, id: (u16, u16)) -> Plain {
        let wanted = |heard: &Heard| match heard {
            Heard::Method(number, plain) if *number == channel && plain.id == id => Some(plain.clone()),
            _ => None,
        };
        self.find(&format!("method {id:?} on channel {channel}"), wanted).await
    }

    /// Sends, and expects the method with the next id: most answers are that.
    pub(crate) async fn call(&mut self, channel: u16, method: Method<'_>) -> Plain {
        let (class, id) = method.id();
        let answer = if (class, id) == (40, 40) { 51 } else { id + 1 };
        self.send(channel, method).await;
        self.expect(channel, (class, answer)).await
    }

    pub(crate) async fn open(&mut self, channel: u16) {
        self.call(channel, Method::ChannelOpen(channel::Open {})).await;
    }

    pub(crate) async fn close_channel(&mut self, channel: u16) {
        let close = channel::Close { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 };
        self.call(channel, Method::ChannelClose(close)).await;
    }

    /// connection.close, and its answer.
    pub(crate) async fn close(mut self) {
        self.call(0, Method::ConnectionClose(bye())).await;
        self.find("the end", |heard| (*heard == Heard::End).then_some(())).await;
    }

    pub(crate) async fn declare(&mut self, declare: queue::Declare<'_>) -> Plain {
        self.call(1, Method::QueueDeclare(declare)).await
    }

    /// Messages and consumers of a queue, once its deliveries are made and heard: the first answer can be from before.
    pub(crate) async fn counts(&mut self, queue: &str) -> (u32, u32) {
        let passive = queue::Declare { passive: true, ..transient(queue) };
        self.declare(passive).await;
        let Plain { messages, consumers, .. } = self.declare(passive).await;
        (messages, consumers)
    }

    pub(crate) async fn declare_exchange(&mut self, exchange: &str, kind: &str) {
        let declare = exchange::Declare {
            exchange,
            kind,
            passive: false,
            durable: true,
            auto_delete: false,
            internal: false,
            nowait: false,
            arguments: Table::default(),
        };
        self.call(1, Method::ExchangeDeclare(declare)).await;
    }

    pub(crate) async fn bind(&mut self, queue: &str, exchange: &str, routing_key: &str) {
        let bind = queue::Bind { queue, exchange, routing_key, nowait: false, arguments: Table::default() };
        self.call(1, Method::QueueBind(bind)).await;
    }

    pub(crate) async fn delete(&mut self, queue: &str) -> u32 {
        let delete = queue::Delete { queue, if_unused: false, if_empty: false, nowait: false };
        self.call(1, Method::QueueDelete(delete)).await.messages
    }

    pub(crate) async fn purge(&mut self, queue: &str) -> u32 {
        self.call(1, Method::QueuePurge(queue::Purge { queue, nowait: false })).await.messages
    }

    pub(crate) async fn consume(&mut self, channel: u16, consume: basic::Consume<'_>) -> String {
        self.call(channel, Method::BasicConsume(consume)).await.text
    }

    pub(crate) async fn qos(&mut self, channel: u16, prefetch_count: u16, global: bool) {
        let qos = basic::Qos { prefetch_size: 0, prefetch_count, global };
        self.call(channel, Method::BasicQos(qos)).await;
    }

    /// Publishes on channel 1.
    pub(crate) async fn publish(&mut self, exchange: &str, key: &str, body: impl AsRef<[u8]>) {
        self.publish_with(1, exchange, key, PropertiesBuilder::default(), body).await;
    }

    pub(crate) async fn publish_with(
        &mut self,
        channel: u16,
        exchange: &str,
        key: &str,
        properties: PropertiesBuilder<'_>,
        body: impl AsRef<[u8]>,
    ) {
        let mut out = Vec::new();
        let publish = content::Publish { mandatory: false };
        self.put_publish(&mut out, channel, (exchange, key), publish, properties, body.as_ref());
        self.write(&out).await;
    }

    /// Appends the frames of a message.
    pub(crate) fn put_publish(
        &self,
        out: &mut Vec<u8>,
        channel: u16,
        (exchange, key): (&str, &str),
        publish: content::Publish,
        properties: PropertiesBuilder<'_>,
        body: &[u8],
    ) {
        let mut exchange_and_key = Vec::new();
        content::put_exchange_and_key(&mut exchange_and_key, exchange, key);
        let properties = properties.to_bytes();
        let message = content::Message { exchange_and_key: &exchange_and_key, properties: &properties, body };
        content::publish(out, channel, publish, message, self.options.frame_max);
    }

    pub(crate) async fn select_confirms(&mut self, channel: u16) {
        self.call(channel, Method::ConfirmSelect(confirm::Select { nowait: false })).await;
    }

    /// Waits until messages 1 to `last` of a channel are confirmed, each once; `first` is the first that is not yet.
    pub(crate) async fn confirmed(&mut self, channel: u16, first: u64, last: u64) {
        let mut missing: std::collections::BTreeSet<u64> = (first..=last).collect();
        while !missing.is_empty() {
            let what = format!("{} confirms on channel {channel}", missing.len());
            let wanted = |heard: &Heard| match heard {
                Heard::Ack { channel: number, number: upto, multiple } if *number == channel => {
                    Some((*upto, *multiple))
                }
                _ => None,
            };
            let (number, multiple) = self.find(&what, wanted).await;
            assert!(number <= last, "message {number} was never published");
            if multiple {
                missing = missing.split_off(&(number + 1));
            } else {
                assert!(missing.remove(&number), "message {number} is confirmed twice");
            }
        }
    }

    /// The next delivery on a channel.
    pub(crate) async fn delivery(&mut self, channel: u16) -> Message {
        let wanted = |heard: &Heard| match heard {
            Heard::Delivery(number, message) if *number == channel => Some(message.clone()),
            _ => None,
        };
        self.find(&format!("a delivery on channel {channel}"), wanted).await
    }

    /// Deliveries that are here. Only after something that comes behind them, such as `counts`, are they all.
    pub(crate) fn deliveries_so_far(&mut self, channel: u16) -> Vec<Message> {
        let mut found = Vec::new();
        self.pending.retain(|heard| match heard {
            Heard::Delivery(number, message) if *number == channel => {
                found.push(message.clone());
                false
            }
            _ => true,
        });
        found
    }

    /// Forgets what was heard and is not wanted.
    pub(crate) fn forget(&mut self, unwanted: impl Fn(&Heard) -> bool) {
        self.pending.retain(|heard| !unwanted(heard));
    }

    /// basic.get on channel 1.
    pub(crate) async fn get(&mut self, queue: &str, no_ack: bool) -> Option<Message> {
        self.send(1, Method::BasicGet(basic::Get { queue, no_ack })).await;
        let wanted = |heard: &Heard| match heard {
            Heard::Got(1, message) => Some(Some(message.clone())),
            Heard::Method(1, Plain { id: (60, 72), .. }) => Some(None),
            _ => None,
        };
        self.find("the answer to basic.get", wanted).await
    }

    /// All that is in a queue, as text; it is empty then.
    pub(crate) async fn drain(&mut self, queue: &str) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some(message) = self.get(queue, true).await {
            texts.push(message.text().to_owned());
        }
        texts
    }

    pub(crate) async fn ack(&mut self, channel: u16, delivery_tag: u64, multiple: bool) {
        self.send(channel, Method::BasicAck(basic::Ack { delivery_tag, multiple })).await;
    }

    pub(crate) async fn nack(&mut self, channel: u16, delivery_tag: u64, multiple: bool, requeue: bool) {
        self.send(channel, Method::BasicNack(basic::Nack { delivery_tag, multiple, requeue })).await;
    }

    /// The server closes a channel; we agree.
    pub(crate) async fn channel_closed(&mut self, channel: u16) -> Close {
        let wanted = |heard: &Heard| match heard {
            Heard::ChannelClosed(number, close) if *number == channel => Some(close.clone()),
            _ => None,
        };
        let close = self.find(&format!("the close of channel {channel}"), wanted).await;
        self.receiver.close(channel);
        self.send(channel, Method::ChannelCloseOk(channel::CloseOk {})).await;
        self.open(channel).await;
        close
    }

    /// The server closes the connection; we agree, and it closes the socket.
    pub(crate) async fn connection_closed(&mut self) -> Close {
        let wanted = |heard: &Heard| match heard {
            Heard::ConnectionClosed(close) => Some(close.clone()),
            _ => None,
        };
        let close = self.find("the close of the connection", wanted).await;
        self.send(0, Method::ConnectionCloseOk(connection::CloseOk {})).await;
        self.ended().await;
        close
    }

    /// The server closes the socket.
    pub(crate) async fn ended(&mut self) {
        self.find("the end of the socket", |heard| (*heard == Heard::End).then_some(())).await;
    }
}

/// A polite connection.close.
pub(crate) fn bye() -> connection::Close<'static> {
    connection::Close { reply_code: 200, reply_text: "bye", class_id: 0, method_id: 0 }
}

/// A frame of any kind with any payload.
pub(crate) fn raw_frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    out.extend_from_slice(payload);
    out.push(frame::END);
    out
}

/// The payload of a content header of class basic, without properties.
pub(crate) fn content_header(body_size: u64) -> Vec<u8> {
    let mut header = vec![0, 60, 0, 0];
    header.extend_from_slice(&body_size.to_be_bytes());
    header.extend_from_slice(&[0, 0]);
    header
}
