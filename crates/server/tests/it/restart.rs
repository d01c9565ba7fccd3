//! Stopping, starting again, and what is still there.

use amqp::method::{Method, exchange, queue};
use amqp::table::Table;
use server::Server;

use crate::broker::{Broker, config};
use crate::client::{Client, Options, consumer, durable, persistent, transient};
use crate::heard::Heard;
use crate::{PATIENCE, within};

const DEFINITIONS: &str = r#"{
  "users": [{"name": "ann", "password": "secret", "tags": ""}, {"name": "bob", "password": "secret", "tags": ""}],
  "vhosts": [{"name": "/"}, {"name": "shop"}],
  "permissions": [
    {"user": "ann", "vhost": "shop", "configure": "^mine", "write": ".*", "read": "^mine"},
    {"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}
  ]
}"#;

fn ann() -> Options {
    let (user, password, vhost) = ("ann".to_owned(), "secret".to_owned(), "shop".to_owned());
    Options { user, password, vhost, ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_durable_survives_and_the_rest_does_not() {
    let broker = Broker::start_sharded().await;
    let mut client = Client::connect(broker.address).await;
    client.declare_exchange("kept", "topic").await;
    let gone = exchange::Declare {
        exchange: "gone",
        kind: "fanout",
        passive: false,
        durable: false,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments: Table::default(),
    };
    client.call(1, Method::ExchangeDeclare(gone)).await;
    client.declare(durable("kept")).await;
    client.declare(transient("gone")).await;
    client.bind("kept", "kept", "a.*").await;
    client.bind("gone", "kept", "a.*").await;
    client.select_confirms(1).await;
    for number in 0..10 {
        client.publish_with(1, "kept", "a.b", persistent(), number.to_string()).await;
        client.publish("kept", "a.b", "transient").await;
    }
    client.confirmed(1, 1, 20).await;
    // Two are acked, two are out and not acked, the others were never out.
    for tag in 1..=8 {
        client.get("kept", false).await.unwrap();
        if tag <= 4 {
            client.ack(1, tag, false).await;
        }
    }
    client.close().await;
    let broker = broker.restart().await;
    let mut client = Client::connect(broker.address).await;
    for method in [
        Method::QueueDeclare(queue::Declare { passive: true, ..transient("gone") }),
        Method::ExchangeDeclare(exchange::Declare { passive: true, ..gone }),
    ] {
        client.send(1, method).await;
        assert_eq!(client.channel_closed(1).await.code, 404);
    }
    client.publish("kept", "a.c", "the binding is there").await;
    let mut found = Vec::new();
    while let Some(message) = client.get("kept", true).await {
        found.push((message.text().to_owned(), message.redelivered));
    }
    let flags =
        [("2", true), ("3", true)].into_iter().chain(["4", "5", "6", "7", "8", "9"].map(|n| (n, false)));
    let expected: Vec<_> =
        flags.chain([("the binding is there", false)]).map(|(n, r)| (n.to_owned(), r)).collect();
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_permissions_survive_and_count() {
    let definitions = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&definitions, DEFINITIONS).unwrap();
    let path = definitions.path().to_owned();
    let mut broker = Broker::start_with(|config| config.definitions = Some(path)).await;
    for _ in 0..2 {
        let mut client = Client::connect_with(broker.address, ann()).await;
        client.open(1).await;
        client.declare(durable("mine")).await;
        client.publish("", "mine", "x").await;
        assert_eq!(client.drain("mine").await, ["x"]);
        let text = "ACCESS_REFUSED - access to queue 'yours' in vhost 'shop' refused for user 'ann'";
        client.send(1, Method::QueueDeclare(durable("yours"))).await;
        let close = client.channel_closed(1).await;
        assert_eq!((close.code, &*close.text), (403, text));
        client.close().await;
        // bob has no permissions anywhere, ann none in /.
        for options in
            [Options { user: "bob".to_owned(), ..ann() }, Options { vhost: "/".to_owned(), ..ann() }]
        {
            let mut client = Client::dial(broker.address).await;
            client.login(options).await;
            client.tune().await;
            client.enter().await;
            assert_eq!(client.connection_closed().await.code, 530);
        }
        broker = broker.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_broker_on_the_same_directory_is_refused() {
    let broker = Broker::start().await;
    let refused = Server::start(config(broker.directory())).await.err().unwrap();
    assert!(refused.to_string().contains("another broker is using"), "{refused}");
    Client::connect(broker.address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_hear_why_the_broker_closes() {
    let broker = Broker::start().await;
    let mut polite = Client::connect(broker.address).await;
    polite.declare(durable("q")).await;
    // Others are of no help: in the handshake, silent, or deaf with much to hear.
    let mut silent = Client::connect(broker.address).await;
    let stranger = Client::dial(broker.address).await;
    silent.declare(transient("deaf")).await;
    silent.publish("", "deaf", vec![b'x'; 16 << 20]).await;
    let deaf = Client::connect(broker.address).await;
    silent.send(1, Method::BasicConsume(consumer("deaf", "c"))).await;
    let (running, _directory) = broker.begin_to_stop();
    let close = polite.connection_closed().await;
    assert_eq!((close.code, close.method), (320, (0, 0)));
    assert_eq!(close.text, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'");
    within(std::time::Duration::from_secs(10), "the broker stops", running).await.unwrap().unwrap();
    drop((silent, stranger, deaf));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_confirmed_while_the_broker_stopped_is_there() {
    let broker = Broker::start_sharded().await;
    let mut client = Client::connect(broker.address).await;
    client.declare(durable("q")).await;
    client.select_confirms(1).await;
    let mut batch = Vec::new();
    for number in 0..2000 {
        let publish = amqp::content::Publish { mandatory: false };
        client.put_publish(&mut batch, 1, ("", "q"), publish, persistent(), number.to_string().as_bytes());
    }
    client.write(&batch).await;
    client.find("a first confirm", |heard| matches!(heard, Heard::Ack { .. }).then_some(())).await;
    let (running, directory) = broker.begin_to_stop();
    let mut confirmed = 0;
    loop {
        match client.hear().await {
            Heard::Ack { number, .. } => confirmed = confirmed.max(number),
            Heard::ConnectionClosed(_) => {
                client.send(0, Method::ConnectionCloseOk(amqp::method::connection::CloseOk {})).await;
            }
            Heard::End => break,
            other => panic!("{other:?}"),
        }
    }
    within(PATIENCE, "the broker stops", running).await.unwrap().unwrap();
    let broker = Broker::start_in(directory, |_| ()).await;
    let mut client = Client::connect(broker.address).await;
    let found = client.drain("q").await;
    assert!(found.len() as u64 >= confirmed, "{} of {confirmed} confirmed messages", found.len());
    for (number, text) in found.iter().enumerate() {
        assert_eq!(*text, number.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_is_for_the_broker_alone_and_names_never_become_paths() {
    use std::os::unix::fs::PermissionsExt;
    let broker = Broker::start_with(|config| config.data_dir.push("data")).await;
    let mut client = Client::connect(broker.address).await;
    let name = "../../../etc/passwd";
    client.declare(durable(name)).await;
    client.select_confirms(1).await;
    client.publish_with(1, "", name, persistent(), "x").await;
    client.confirmed(1, 1, 1).await;
    let data = broker.directory().join("data");
    assert_eq!(data.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::read_dir(broker.directory()).unwrap().count(), 1);
    let mut directories = vec![data];
    while let Some(directory) = directories.pop() {
        for path in std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()) {
            assert!(!path.to_str().unwrap().contains("passwd"), "{}", path.display());
            directories.extend(path.is_dir().then_some(path));
        }
    }
}
