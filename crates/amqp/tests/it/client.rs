//! A client and a server talk to each other.

use amqp::client::{self, Connection, Options};
use amqp::content::{Message, Publish};
use amqp::error::Error;
use amqp::method::{Method, basic};
use amqp::sasl::{self, Credentials};
use amqp::server;
use amqp::table::Table;
use expect_test::expect;

type Act = Box<dyn FnOnce(&mut Wire)>;

/// Both ends and the bytes between them.
struct Wire {
    client: Connection,
    server: server::Connection,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    told: String,
}

impl Wire {
    fn new(password: &str, max_message_size: u64) -> Self {
        let options = Options {
            credentials: Credentials { user: "guest".to_owned(), password: password.to_owned() },
            vhost: "/".to_owned(),
            connection_name: Some("me".to_owned()),
            frame_max: 4096,
            channel_max: 0,
            heartbeat: 10,
            max_message_size,
        };
        let offer =
            server::Offer { frame_max: 131_072, channel_max: 4, heartbeat: 60, max_message_size: 10_000 };
        let mut to_server = Vec::new();
        let client = Connection::start(options, &mut to_server);
        Self {
            client,
            server: server::Connection::new(offer),
            to_server,
            to_client: Vec::new(),
            told: String::new(),
        }
    }

    /// Lets the bytes travel until both ends are quiet.
    fn run(&mut self) {
        while self.serve() | self.consume() {}
    }

    fn serve(&mut self) -> bool {
        let result = self.server.receive(&self.to_server, &mut self.to_client);
        let (used, act): (_, Option<Act>) = match result {
            Ok(server::Step { used, event: None }) => (used, None),
            Ok(server::Step { used, event: Some(event) }) => {
                self.told += &format!("server: {}\n", show_server(&event));
                (used, Some(Box::new(server_answer(&event))))
            }
            Err(failure) => (
                failure.used,
                Some(Box::new(move |wire| {
                    wire.server.fail(&mut wire.to_client, &failure);
                })),
            ),
        };
        self.to_server.drain(..used);
        let moved = used > 0 || act.is_some();
        act.into_iter().for_each(|act| act(self));
        moved
    }

    fn consume(&mut self) -> bool {
        let used = match self.client.receive(&self.to_client, &mut self.to_server) {
            Ok(client::Step { used, event }) => {
                event.iter().for_each(|event| self.told += &format!("client: {}\n", show_client(event)));
                used
            }
            Err(failure) => {
                self.told += &format!("client: wrong: {}\n", failure.error);
                failure.used
            }
        };
        self.to_client.drain(..used);
        used > 0
    }
}

fn show_server(event: &server::Event<'_>) -> String {
    match event {
        server::Event::Login { mechanism, .. } => format!("login {mechanism}"),
        server::Event::Publish { channel, method, body, .. } => {
            format!("{channel} publish to {} {} bytes", method.exchange, body.len())
        }
        server::Event::Method { channel, method } => format!("{channel} {}", method.name()),
        event => format!("{event:?}"),
    }
}

fn show_client(event: &client::Event<'_>) -> String {
    match event {
        client::Event::Content { channel, method, body, .. } => {
            format!("{channel} {} {} bytes", method.name(), body.len())
        }
        client::Event::Method { channel, method } => format!("{channel} {}", method.name()),
        event => format!("{event:?}"),
    }
}

fn server_answer(event: &server::Event<'_>) -> impl FnOnce(&mut Wire) + use<> {
    enum Answer {
        Start,
        Accept,
        Refuse,
        Open,
        Channel(u16),
        Deliver(u16, usize),
        CloseChannel(u16),
        Nothing,
    }
    let answer = match event {
        server::Event::ProtocolHeader => Answer::Start,
        server::Event::Login { response, .. } => match sasl::parse_plain(response) {
            Ok(credentials) if credentials.password == "guest" => Answer::Accept,
            _ => Answer::Refuse,
        },
        server::Event::Open { .. } => Answer::Open,
        server::Event::ChannelOpened { channel } => Answer::Channel(*channel),
        server::Event::Publish { channel, body, .. } => Answer::Deliver(*channel, body.len()),
        server::Event::Method { channel, .. } => Answer::CloseChannel(*channel),
        _ => Answer::Nothing,
    };
    move |wire| {
        let (server, out) = (&mut wire.server, &mut wire.to_client);
        match answer {
            Answer::Start => server.send_start(out, Table::EMPTY, "AMQPLAIN PLAIN"),
            Answer::Accept => server.accept_login(out),
            Answer::Refuse => server.refuse_login(out, "PLAIN"),
            Answer::Open => server.accept_open(out),
            Answer::Channel(channel) => server.accept_channel(out, channel),
            Answer::Deliver(channel, size) => {
                let deliver =
                    amqp::content::Deliver { consumer_tag: "c", delivery_tag: 1, redelivered: false };
                let frame_max = server.negotiated().frame_max;
                amqp::content::deliver(out, channel, deliver, message(&vec![0; size]), frame_max);
            }
            Answer::CloseChannel(channel) => {
                server.close_channel(out, channel, &Error::not_found("no queue"));
            }
            Answer::Nothing => {}
        }
    }
}

fn message(body: &[u8]) -> Message<'_> {
    Message { exchange_and_key: b"\x01x\x01k", properties: &[0, 0], body }
}

#[test]
fn they_shake_hands_talk_and_part() {
    let mut wire = Wire::new("guest", 10_000);
    wire.run();
    assert_eq!((wire.client.frame_max(), wire.client.channel_max(), wire.client.heartbeat()), (4096, 4, 10));
    assert_eq!(wire.server.connection_name(), Some("me"));
    wire.client.open_channel(&mut wire.to_server, 1);
    wire.run();
    wire.client.publish(&mut wire.to_server, 1, Publish::default(), message(b"hello"));
    wire.client.publish(&mut wire.to_server, 1, Publish::default(), message(&[7; 9000]));
    wire.run();
    wire.client.close_channel(&mut wire.to_server, 1);
    wire.run();
    wire.client.close(&mut wire.to_server);
    wire.run();
    assert!(wire.client.is_closed() && wire.server.is_closed());
    expect![[r#"
        server: ProtocolHeader
        server: login PLAIN
        server: Open { vhost: "/" }
        client: Opened
        server: ChannelOpened { channel: 1 }
        client: 1 channel.open-ok
        server: 1 publish to x 5 bytes
        client: 1 basic.deliver 5 bytes
        server: 1 publish to x 9000 bytes
        client: 1 basic.deliver 9000 bytes
        server: ChannelClosed { channel: 1 }
        client: 1 channel.close-ok
        server: Closed
        client: Closed { close: None }
    "#]]
    .assert_eq(&wire.told);
}

#[test]
fn a_wrong_password_is_told() {
    let mut wire = Wire::new("wrong", 10_000);
    wire.run();
    expect![[r#"
        server: ProtocolHeader
        server: login PLAIN
        client: Closed { close: Some(Close { reply_code: 403, reply_text: "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.", class_id: 0, method_id: 0 }) }
        server: Closed
    "#]].assert_eq(&wire.told);
}

#[test]
fn a_channel_that_the_server_closes_can_be_opened_again() {
    let mut wire = Wire::new("guest", 10_000);
    wire.run();
    wire.client.open_channel(&mut wire.to_server, 1);
    wire.run();
    wire.told.clear();
    let ack = Method::BasicAck(basic::Ack { delivery_tag: 1, multiple: false });
    wire.client.send(&mut wire.to_server, 1, &ack);
    wire.run();
    wire.client.open_channel(&mut wire.to_server, 1);
    wire.run();
    expect![[r#"
        server: 1 basic.ack
        client: ChannelClosed { channel: 1, close: Close { reply_code: 404, reply_text: "NOT_FOUND - no queue", class_id: 0, method_id: 0 } }
        server: ChannelOpened { channel: 1 }
        client: 1 channel.open-ok
    "#]].assert_eq(&wire.told);
}

#[test]
fn a_message_too_large_for_the_client_costs_the_server_its_channel() {
    let mut wire = Wire::new("guest", 100);
    wire.run();
    wire.client.open_channel(&mut wire.to_server, 1);
    wire.run();
    wire.told.clear();
    wire.client.publish(&mut wire.to_server, 1, Publish::default(), message(&[0; 101]));
    wire.run();
    expect![[r#"
        server: 1 publish to x 101 bytes
        client: wrong: 406 PRECONDITION_FAILED - message size 101 is larger than configured max size 100
        server: ChannelClosed { channel: 1 }
        client: 1 channel.close-ok
    "#]]
    .assert_eq(&wire.told);
}

#[test]
fn a_server_of_another_version_is_an_error() {
    let mut wire = Wire::new("guest", 100);
    wire.to_client.extend_from_slice(b"AMQP\0\x01\0\0");
    assert!(wire.client.receive(&wire.to_client, &mut Vec::new()).is_err());
    assert!(wire.client.is_closed());
}
