//! Definitions: imported at the start, and again when that is wanted.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use amqp::method::{Method, channel, queue};
use amqp::table::TableBuilder;
use broker::definitions::parse;
use broker::meta::Change;

use crate::broker::Broker;
use crate::client::{Client, Options, durable, transient};
use crate::eventually;

const GUEST: &str = r#"{"name": "guest", "password": "guest", "tags": ""}"#;
const PERMITTED: &str = r#"{"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}"#;

/// Writes a document with guest and `more`.
fn write(file: &Path, limits: &str, more: &str) {
    let user = GUEST.replace(r#""tags": """#, &format!(r#""tags": "", "limits": {limits}"#));
    let text = format!(
        r#"{{"users": [{user}], "vhosts": [{{"name": "/"}}], "permissions": [{PERMITTED}], {more}}}"#
    );
    std::fs::write(file, text).unwrap();
}

fn alternate(exchange: &str) -> String {
    let definition = format!(r#"{{"alternate-exchange": "{exchange}"}}"#);
    format!(
        r#""policies": [{{"vhost": "/", "name": "p", "pattern": "^amq.direct$", "definition": {definition}}}]"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_change_while_clients_are_served() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_owned();
    write(&path, "{}", &alternate("amq.fanout"));
    let broker = Broker::start_with(|config| config.definitions = Some(path.clone())).await;
    let mut client = Client::connect(broker.address).await;
    for (queue, exchange) in [("one", "amq.fanout"), ("two", "amq.topic")] {
        client.declare(transient(queue)).await;
        client.bind(queue, exchange, "k").await;
    }
    client.publish("amq.direct", "k", "first").await;
    assert_eq!(client.drain("one").await, ["first"]);

    // What makes no sense changes nothing, and does not keep out what comes later.
    std::fs::write(&path, "{").unwrap();
    broker.reload.reload();
    client.publish("amq.direct", "k", "second").await;
    assert_eq!(client.drain("one").await, ["second"]);
    write(&path, "{}", &alternate("amq.topic"));
    let mut client = eventually("the policy counts", async || {
        broker.reload.reload();
        let mut client = Client::connect(broker.address).await;
        client.publish("amq.direct", "k", "third").await;
        (client.drain("two").await == ["third"]).then_some(client)
    })
    .await;
    client.purge("one").await;

    // One definition that is refused does not keep out the others.
    let queue = r#""queues": [{"vhost": "/", "name": "one", "durable": true}]"#;
    let bindings = r#""bindings": [{"vhost": "/", "source": "amq.direct", "destination": "two",
                      "destination_type": "queue", "routing_key": "new"}]"#;
    write(&path, "{}", &format!("{queue}, {bindings}, {}", alternate("amq.fanout")));
    broker.reload.reload();
    eventually("the policy counts", async || {
        client.publish("amq.direct", "k", "fourth").await;
        (!client.drain("one").await.is_empty()).then_some(())
    })
    .await;
    eventually("the binding is there", async || {
        client.publish("amq.direct", "new", "fifth").await;
        client.drain("two").await.contains(&"fifth".to_owned()).then_some(())
    })
    .await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_users_and_virtual_hosts() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_owned();
    let of_vhost = |limits: &str| {
        format!(
            r#""parameters": [{{"component": "vhost-limits", "name": "limits", "vhost": "/", "value": {limits}}}]"#
        )
    };
    write(&path, r#"{"max-connections": 2, "max-channels": 2}"#, &of_vhost("{}"));
    let broker = Broker::start_with(|config| config.definitions = Some(path.clone())).await;
    let refused = async || {
        let mut client = Client::dial(broker.address).await;
        client.login(Options::default()).await;
        client.tune().await;
        client.enter().await;
        let close = client.connection_closed().await;
        assert_eq!(close.code, 530);
        close.text
    };
    let connect = || Client::connect_with(broker.address, Options::default());
    let (mut first, mut second) = (connect().await, connect().await);
    let text = "NOT_ALLOWED - connection refused for user 'guest': user connection limit (2) is reached";
    assert_eq!(refused().await, text);

    // The limit of channels is one of all connections together. One that either side has closed is free.
    first.open(1).await;
    second.open(1).await;
    second.close_channel(1).await;
    second.open(3).await;
    first.ack(1, 9, false).await;
    first.channel_closed(1).await;
    first.declare(transient("q")).await;
    second.send(4, Method::ChannelOpen(channel::Open {})).await;
    let close = second.connection_closed().await;
    let text = "NOT_ALLOWED - number of channels opened for user 'guest' has reached the maximum allowed user limit \
                of (2)";
    assert_eq!((close.code, &*close.text), (530, text));

    // The limit of the virtual host is looked at first, and who is in stays in.
    let third = connect().await;
    write(&path, r#"{"max-connections": 2}"#, &of_vhost(r#"{"max-connections": 1}"#));
    broker.reload.reload();
    let text = "NOT_ALLOWED - access to vhost '/' refused for user 'guest': connection limit (1) is reached";
    eventually("the limit counts", async || (refused().await == text).then_some(())).await;
    first.declare(transient("q")).await;
    first.close().await;
    third.close().await;
    connect().await;
}

/// A durable queue with an argument so long that a few hundred fill a file of the journal.
async fn declare_large(client: &mut Client, name: &str) {
    let note = "x".repeat(100_000);
    let arguments = TableBuilder::new().with("note", note.as_str());
    let declare = queue::Declare { arguments: arguments.as_table(), ..durable(name) };
    client.declare(declare).await;
}

/// A document and the names of the queues in it.
fn exported(directory: &Path) -> (String, BTreeSet<String>) {
    let exported = server::export::definitions(directory).unwrap();
    assert_eq!(exported.lost, [""; 0]);
    let changes = parse(&exported.json, |_, _| unreachable!("it holds hashes")).unwrap().changes;
    let names = changes.into_iter().filter_map(|change| match change {
        Change::DeclareQueue(queue) => Some(queue.name.to_string()),
        _ => None,
    });
    (exported.json, names.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_while_clients_declare_was_true_at_some_moment() {
    const CLIENTS: usize = 2;
    const QUEUES: usize = 60;
    let broker = Broker::start().await;
    let declared: Arc<[AtomicUsize]> = (0..CLIENTS).map(|_| AtomicUsize::new(0)).collect();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (address, declared) = (broker.address, Arc::clone(&declared));
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                for queue in 0..QUEUES {
                    declare_large(&mut client, &format!("{number}-{queue:04}")).await;
                    declared[number].store(queue + 1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    loop {
        let before: Vec<_> = declared.iter().map(|count| count.load(Ordering::SeqCst)).collect();
        let directory = broker.directory().to_owned();
        let (_, names) = tokio::task::spawn_blocking(move || exported(&directory)).await.unwrap();
        for (number, before) in before.iter().enumerate() {
            let prefix = format!("{number}-");
            let of_client: Vec<_> = names.iter().filter(|name| name.starts_with(&prefix)).collect();
            assert!(of_client.len() >= *before, "{} of {before} queues", of_client.len());
            let first: Vec<_> = (0..of_client.len()).map(|queue| format!("{number}-{queue:04}")).collect();
            assert_eq!(of_client, first.iter().collect::<Vec<_>>(), "none is left out");
        }
        if before == [QUEUES; CLIENTS] {
            break;
        }
    }
    for client in clients {
        client.await.unwrap();
    }
    let files = std::fs::read_dir(broker.directory().join("journal/meta")).unwrap().count();
    assert!(files > 1, "the journal went on in another file meanwhile");

    let (document, _) = exported(broker.directory());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &document).unwrap();
    let path = file.path().to_owned();
    let other = Broker::start_with(|config| config.definitions = Some(path)).await;
    assert_eq!(exported(other.directory()).0, document);
    broker.stop().await;
    other.stop().await;
}
