//! Definitions: imported at the start, and again when that is wanted.

use std::path::Path;

use amqp::method::{Method, channel};

use crate::broker::Broker;
use crate::client::{Client, Options, transient};
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
