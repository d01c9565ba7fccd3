//! tx: all of it at the commit, nothing before, and nothing after a rollback.

use amqp::method::{Method, basic, tx};
use amqp::properties::PropertiesBuilder;

use crate::broker::Broker;
use crate::client::{Client, consumer, durable, persistent};

async fn begin(broker: &Broker) -> Client {
    let mut client = Client::connect(broker.address).await;
    for queue in ["a", "b", "c", "d"] {
        client.declare(durable(queue)).await;
    }
    client.open(2).await;
    client.call(2, Method::TxSelect(tx::Select {})).await;
    client
}

async fn commit(client: &mut Client) {
    client.call(2, Method::TxCommit(tx::Commit {})).await;
}

async fn rollback(client: &mut Client) {
    client.call(2, Method::TxRollback(tx::Rollback {})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_wait_for_the_commit() {
    let broker = Broker::start_sharded().await;
    let mut client = begin(&broker).await;
    for text in ["rolled back", "kept"] {
        for queue in ["a", "b", "c", "d"] {
            client.publish_with(2, "", queue, persistent(), text).await;
            client.qos(2, 0, false).await;
            assert_eq!(client.counts(queue).await.0, 0);
        }
        if text == "kept" { commit(&mut client).await } else { rollback(&mut client).await }
    }
    commit(&mut client).await;
    for queue in ["a", "b", "c", "d"] {
        assert_eq!(client.drain(queue).await, ["kept"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acks_wait_for_the_commit() {
    let broker = Broker::start_sharded().await;
    let mut client = begin(&broker).await;
    client.qos(2, 3, true).await;
    client.consume(2, consumer("a", "c")).await;
    for number in 0..6 {
        client.publish("", "a", number.to_string()).await;
    }
    let tags = [client.delivery(2).await.tag, client.delivery(2).await.tag, client.delivery(2).await.tag];
    client.ack(2, tags[1], true).await;
    client.qos(2, 3, true).await;
    assert_eq!(client.counts("a").await.0, 3, "the window is still full");
    rollback(&mut client).await;
    assert_eq!(client.counts("a").await.0, 3, "what is rolled back is held, not delivered again");
    client.ack(2, tags[0], false).await;
    client.nack(2, tags[1], false, true).await;
    commit(&mut client).await;
    // There is room for two: what went back or what comes next, whichever its shard sees first.
    client.delivery(2).await;
    client.delivery(2).await;
    // An ack that is not committed is none.
    client.ack(2, tags[2], false).await;
    client.qos(2, 3, true).await;
    client.close_channel(2).await;
    assert_eq!(client.drain("a").await, ["1", "2", "3", "4", "5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_ack_twice_in_a_transaction_is_once_too_often() {
    let broker = Broker::start().await;
    let mut client = begin(&broker).await;
    client.publish("", "a", "x").await;
    client.send(2, Method::BasicConsume(basic::Consume { ..consumer("a", "c") })).await;
    let tag = client.delivery(2).await.tag;
    client.ack(2, tag, false).await;
    client.ack(2, tag, false).await;
    assert_eq!(client.channel_closed(2).await.code, 406);
    assert_eq!(client.drain("a").await, ["x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_survives() {
    let broker = Broker::start_sharded().await;
    let mut client = begin(&broker).await;
    for queue in ["a", "b", "c", "d"] {
        client.publish_with(1, "", queue, persistent(), "to be acked").await;
    }
    for queue in ["a", "b", "c", "d"] {
        client.publish_with(2, "", queue, persistent(), "committed").await;
        client.publish_with(2, "", queue, PropertiesBuilder::default(), "transient").await;
        client.send(2, Method::BasicGet(basic::Get { queue, no_ack: false })).await;
    }
    client.qos(2, 0, false).await;
    client.ack(2, 0, true).await;
    commit(&mut client).await;
    client.publish_with(2, "", "a", persistent(), "not committed").await;
    client.qos(2, 0, false).await;
    client.close().await;
    let broker = broker.restart().await;
    let mut client = Client::connect(broker.address).await;
    for queue in ["a", "b", "c", "d"] {
        assert_eq!(client.drain(queue).await, ["committed"], "{queue}");
    }
}
