//! Who gets in, and what those cost who do not.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use amqp::capabilities::Capabilities;
use amqp::frame;
use amqp::method::{Method, connection};
use amqp::table::{Table, TableBuilder};
use tokio::io::AsyncReadExt;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::broker::Broker;
use crate::client::{Client, Options, raw_frame};
use crate::heard::{Close, Heard};
use crate::within;

const REFUSED: &str = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. \
                       For details see the broker logfile.";

fn user(user: &str, password: &str) -> Options {
    Options { user: user.to_owned(), password: password.to_owned(), ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_understands_is_told_why_its_login_fails_and_another_is_not() {
    let broker = Broker::start().await;
    for (name, password) in [("guest", "wrong"), ("guest", ""), ("nobody", "guest"), ("", "")] {
        let mut client = Client::dial(broker.address).await;
        client.login(user(name, password)).await;
        let close = client.connection_closed().await;
        assert_eq!(close, Close { code: 403, text: REFUSED.to_owned(), method: (0, 0) });

        let mut client = Client::dial(broker.address).await;
        client.login(Options { capabilities: Capabilities::default(), ..user(name, password) }).await;
        assert_eq!(client.hear().await, Heard::End);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_passwords_is_slowed_and_who_knows_one_is_not() {
    let broker = Broker::start().await;
    Client::connect(broker.address).await;
    let started = std::time::Instant::now();
    for number in 0..23 {
        let mut client = Client::dial(broker.address).await;
        client.login(user("guest", &format!("guess {number}"))).await;
        assert_eq!(client.connection_closed().await.text, REFUSED);
    }
    // Twenty failures are free, each further one costs 0.6 s.
    assert!(started.elapsed() >= Duration::from_millis(1200), "{:?}", started.elapsed());
    Client::connect(broker.address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_from_definitions_becomes_ours_at_the_first_login() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("definitions.json");
    let definitions = r#"{
        "users": [{"name": "old", "password_hash": "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR", "tags": ""}],
        "permissions": [{"user": "old", "vhost": "/", "configure": "", "write": "", "read": ""}]
    }"#;
    std::fs::write(&file, definitions).unwrap();
    let broker = Broker::start_with(|config| config.definitions = Some(file)).await;
    let journal = broker.directory().join("journal/meta/00000000000000000000.journal");
    let holds_ours = || {
        let bytes = std::fs::read(&journal).unwrap();
        bytes.windows(10).any(|window| window == b"$argon2id$")
    };
    assert!(!holds_ours());
    Client::connect_with(broker.address, user("old", "test12")).await;
    crate::eventually("the hash is replaced", async || holds_ours().then_some(())).await;
    Client::connect_with(broker.address, user("old", "test12")).await;
    let broker = broker.restart().await;
    Client::connect_with(broker.address, user("old", "test12")).await;
    let mut client = Client::dial(broker.address).await;
    client.login(user("old", "test13")).await;
    assert_eq!(client.connection_closed().await.text, REFUSED);
}

#[tokio::test(flavor = "multi_thread")]
async fn guest_is_only_for_this_machine() {
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let broker = Broker::start_with(|config| config.amqp = everywhere).await;
    Client::connect(([127, 0, 0, 1], broker.address.port()).into()).await;
    // Connecting a datagram socket sends nothing, but tells which address of ours would be the sender.
    let route = UdpSocket::bind("0.0.0.0:0").unwrap();
    let outside = route.connect("192.0.2.1:9").and_then(|()| route.local_addr());
    let Ok(ours) = outside.map(|address| address.ip()).map_err(drop) else { return };
    if ours.is_loopback() || ours.is_unspecified() {
        return;
    }
    let mut client = Client::dial((ours, broker.address.port()).into()).await;
    client.login(Options::default()).await;
    assert_eq!(client.connection_closed().await.text, REFUSED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strange_mechanism_and_a_malformed_response_are_refused() {
    let broker = Broker::start().await;
    let cases: [(&str, &[u8], u16); 4] = [
        ("EXTERNAL", b"", 503),
        ("PLAIN", b"guest", 502),
        ("PLAIN", b"\0guest\0guest\0", 502),
        ("AMQPLAIN", b"\x05LOGINS\0\0\0\xffguest", 502),
    ];
    for (mechanism, response, code) in cases {
        let mut client = Client::dial(broker.address).await;
        client.write(&frame::PROTOCOL_HEADER).await;
        client.expect(0, (10, 10)).await;
        let client_properties = Table::default();
        let start_ok = connection::StartOk { client_properties, mechanism, response, locale: "en_US" };
        client.send(0, Method::ConnectionStartOk(start_ok)).await;
        let close = client.connection_closed().await;
        assert_eq!((close.code, close.method), (code, (10, 11)), "{mechanism}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn amqplain_is_as_good_as_plain() {
    let broker = Broker::start().await;
    let mut client = Client::dial(broker.address).await;
    client.write(&frame::PROTOCOL_HEADER).await;
    client.expect(0, (10, 10)).await;
    let response = TableBuilder::new().with("LOGIN", "guest").with("PASSWORD", "guest").into_bytes();
    let start_ok = connection::StartOk {
        client_properties: Table::default(),
        mechanism: "AMQPLAIN",
        response: &response,
        locale: "en_US",
    };
    client.send(0, Method::ConnectionStartOk(start_ok)).await;
    client.tune().await;
    client.enter().await;
    client.expect(0, (10, 41)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_host_must_exist() {
    let broker = Broker::start().await;
    let mut client = Client::dial(broker.address).await;
    client.login(Options { vhost: "nowhere".to_owned(), ..Options::default() }).await;
    client.tune().await;
    client.enter().await;
    let close = client.connection_closed().await;
    assert_eq!((close.code, &*close.text), (530, "NOT_ALLOWED - vhost nowhere not found"));
    assert_eq!(close.method, (10, 40));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_was_offered_is_not_agreed_to() {
    let broker = Broker::start().await;
    let wishes = [(131_073, 2047), (4095, 2047), (0, 2047), (131_072, 2048), (131_072, 0)];
    for (frame_max, channel_max) in wishes {
        let mut client = Client::dial(broker.address).await;
        client.login(Options { frame_max, channel_max, ..Options::default() }).await;
        client.tune().await;
        assert_eq!(client.connection_closed().await.code, 530, "{frame_max} {channel_max}");
    }
    Client::connect_with(broker.address, Options { frame_max: 4096, channel_max: 1, ..Options::default() })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_something_else_hears_our_version() {
    let broker = Broker::start().await;
    let starts: [&[u8]; 5] = [
        b"AMQP\x00\x00\x0a\x00",
        b"AMQP\x03\x01\x00\x00",
        b"GET / HT",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"x",
    ];
    for start in starts {
        let mut client = Client::dial(broker.address).await;
        client.write(start).await;
        let mut answer = Vec::new();
        within(crate::PATIENCE, "the end", client.stream.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer, frame::PROTOCOL_HEADER, "{}", start.escape_ascii());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_or_says_it_slowly_is_gone_at_the_same_time() {
    let timeout = Duration::from_secs(1);
    let broker = Broker::start_with(|config| config.limits.handshake_timeout = timeout).await;
    let silent = async {
        let mut client = Client::dial(broker.address).await;
        client.ended().await;
    };
    let dripping = async {
        let mut client = Client::dial(broker.address).await;
        let mut drops = frame::PROTOCOL_HEADER.iter().chain(&[1, 0, 0, 0, 0, 1, 0]).cycle();
        let mut byte = [0];
        // Each drop comes well before any limit per byte could have passed.
        while let Err(_later) = tokio::time::timeout(timeout / 10, client.stream.read(&mut byte)).await {
            client.write(&[*drops.next().unwrap()]).await;
        }
        let mut rest = Vec::new();
        let _ = within(crate::PATIENCE, "the end", client.stream.read_to_end(&mut rest)).await;
    };
    let logged_in_but_nowhere = async {
        let mut client = Client::dial(broker.address).await;
        client.login(Options::default()).await;
        client.tune().await;
        client.ended().await;
    };
    let started = std::time::Instant::now();
    tokio::join!(silent, dripping, logged_in_but_nowhere);
    assert!(started.elapsed() >= timeout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_cannot_announce_a_large_frame() {
    let broker = Broker::start().await;
    for size in [8193_u32, 2 << 30, u32::MAX] {
        let mut client = Client::dial(broker.address).await;
        client.write(&frame::PROTOCOL_HEADER).await;
        client.expect(0, (10, 10)).await;
        let mut head = vec![1, 0, 0];
        head.extend_from_slice(&size.to_be_bytes());
        client.write(&head).await;
        assert_eq!(client.connection_closed().await.code, 501, "{size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_while_a_password_is_checked_is_not_gathered() {
    let broker = Broker::start().await;
    let mut client = Client::dial(broker.address).await;
    client.login(Options::default()).await;
    let heartbeats = raw_frame(8, 0, &[]).repeat(512 << 10);
    client.write(&heartbeats).await;
    client.tune().await;
    client.enter().await;
    client.expect(0, (10, 41)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_can_come_back_at_once() {
    let broker = Broker::start().await;
    let mut clients = JoinSet::new();
    let all_here = Arc::new(Barrier::new(400));
    for _ in 0..400 {
        let (address, all_here) = (broker.address, Arc::clone(&all_here));
        clients.spawn(async move {
            let mut client = Client::dial(address).await;
            client.write(&frame::PROTOCOL_HEADER).await;
            client.expect(0, (10, 10)).await;
            all_here.wait().await;
            client.start_ok().await;
            client.tune().await;
            client.enter().await;
            client.expect(0, (10, 41)).await;
        });
    }
    clients.join_all().await;
}
