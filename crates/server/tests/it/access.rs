//! What happens to clients that are in when users and permissions change.

use std::path::{Path, PathBuf};

use amqp::method::connection::UpdateSecret;
use amqp::method::{Method, exchange};
use amqp::table::Table;

use crate::broker::Broker;
use crate::client::{Client, Options, consumer, transient};
use crate::eventually;
use crate::heard::{Close, Heard};

const ALL: [&str; 3] = [".*"; 3];

/// The hash of `test12`, as RabbitMQ writes it.
const TEST12: &str = r#""password_hash": "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR""#;

/// Writes a document with one user, `u`; `what` tells its password, `patterns` are for configure, write and read.
fn write(file: &Path, what: &str, patterns: [&str; 3]) {
    let [configure, write, read] = patterns;
    let permissions = format!(
        r#""user": "u", "vhost": "/", "configure": "{configure}", "write": "{write}", "read": "{read}""#
    );
    let text = format!(
        r#"{{"users": [{{"name": "u", {what}, "tags": ""}}], "permissions": [{{{permissions}}}],
            "vhosts": [{{"name": "/"}}]}}"#
    );
    std::fs::write(file, text).unwrap();
}

/// A broker with that user.
async fn start(directory: &Path, what: &str) -> (Broker, PathBuf) {
    let file = directory.join("definitions.json");
    write(&file, what, ALL);
    let broker = Broker::start_with(|config| config.definitions = Some(file.clone())).await;
    (broker, file)
}

async fn connect(broker: &Broker, password: &str) -> Client {
    let options = Options { user: "u".to_owned(), password: password.to_owned(), ..Options::default() };
    let mut client = Client::connect_with(broker.address, options).await;
    client.open(1).await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_no_longer_read_a_queue_no_longer_consumes_from_it() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, file) = start(directory.path(), r#""password": "secret""#).await;
    let mut client = connect(&broker, "secret").await;
    client.open(2).await;
    for (channel, queue) in [(1, "kept"), (2, "lost")] {
        client.declare(transient(queue)).await;
        client.consume(channel, consumer(queue, queue)).await;
    }
    write(&file, r#""password": "secret""#, ["", "^amq\\\\.default$", "^kept$"]);
    broker.reload.reload();
    let text = "ACCESS_REFUSED - access to queue 'lost' in vhost '/' refused for user 'u'";
    let close = Close { code: 403, text: text.to_owned(), method: (60, 20) };
    assert_eq!(client.channel_closed(2).await, close);
    client.publish("", "kept", "still delivered").await;
    assert_eq!(client.delivery(1).await.text(), "still delivered");
    let mut guest = Client::connect(broker.address).await;
    guest.publish("", "lost", "stays").await;
    assert_eq!(guest.counts("lost").await, (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_no_longer_write_no_longer_publishes() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, file) = start(directory.path(), r#""password": "secret""#).await;
    let mut client = connect(&broker, "secret").await;
    client.declare(transient("q")).await;
    // This way is remembered, and a consumer hears of the change.
    client.publish("", "q", "before").await;
    client.open(2).await;
    client.consume(2, consumer("q", "c")).await;
    client.delivery(2).await;
    write(&file, r#""password": "secret""#, ["", "", ""]);
    broker.reload.reload();
    client.channel_closed(2).await;
    client.publish("", "q", "after").await;
    let text = "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'u'";
    assert_eq!(client.channel_closed(1).await.text, text);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_came_with_a_password_that_was_changed_has_to_come_again() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, file) = start(directory.path(), r#""password": "secret""#).await;
    let mut client = connect(&broker, "secret").await;
    let mut guest = Client::connect(broker.address).await;
    write(&file, r#""password": "another""#, ALL);
    broker.reload.reload();
    let close = client.connection_closed().await;
    assert_eq!((close.code, &*close.text), (320, "CONNECTION_FORCED - the password was changed"));
    connect(&broker, "another").await;
    guest.declare(transient("q")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_password_written_anew_disturbs_nobody() {
    for (what, password) in [(r#""password": "secret""#, "secret"), (TEST12, "test12")] {
        let directory = tempfile::tempdir().unwrap();
        let (broker, file) = start(directory.path(), what).await;
        let mut first = connect(&broker, password).await;
        let journal = broker.directory().join("journal/meta/00000000000000000000.journal");
        eventually("the hash is ours", async || {
            let bytes = std::fs::read(&journal).unwrap();
            bytes.windows(10).any(|window| window == b"$argon2id$").then_some(())
        })
        .await;
        let mut second = connect(&broker, password).await;
        for (channel, queue) in [(2, "a"), (3, "b")] {
            first.open(channel).await;
            first.declare(transient(queue)).await;
            first.consume(channel, consumer(queue, queue)).await;
        }
        // A consumer that has to go tells that the document was imported.
        for (channel, read) in [(2, "^b$"), (3, "^c$")] {
            write(&file, what, ["", "", read]);
            broker.reload.reload();
            first.channel_closed(channel).await;
        }
        for client in [&mut first, &mut second] {
            client
                .call(0, Method::ConnectionUpdateSecret(UpdateSecret { new_secret: b"", reason: "" }))
                .await;
        }
        connect(&broker, password).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn line_ends_in_names_do_not_get_past_permissions() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, file) = start(directory.path(), r#""password": "secret""#).await;
    let mut guest = Client::connect(broker.address).await;
    for exchange in ["open", "secret"] {
        guest.declare_exchange(exchange, "fanout").await;
    }
    write(&file, r#""password": "secret""#, ["", "^[^s]", "^[^s]"]);
    broker.reload.reload();
    for (destination, source) in [("\nsecret", "open"), ("open", "\nsecret")] {
        let text = "ACCESS_REFUSED - access to exchange 'secret' in vhost '/' refused for user 'u'";
        let bind = exchange::Bind {
            destination,
            source,
            routing_key: "",
            nowait: false,
            arguments: Table::default(),
        };
        let close = eventually("the permissions count", async || {
            let mut client = connect(&broker, "secret").await;
            client.send(1, Method::ExchangeBind(bind)).await;
            match client.hear().await {
                Heard::ChannelClosed(_, close) => Some(close),
                _ => None,
            }
        })
        .await;
        assert_eq!(close.text, text);
    }
}
