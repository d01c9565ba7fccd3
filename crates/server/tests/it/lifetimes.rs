//! When things end: connections, exclusive and auto-delete queues, and queues that are deleted in the middle of it all.

use std::sync::Arc;

use amqp::method::{Method, basic, queue};
use tokio::io::AsyncWriteExt;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::broker::Broker;
use crate::client::{Client, bye, consumer, content_header, durable, persistent, raw_frame, transient};
use crate::eventually;
use crate::heard::Heard;

/// Whether a queue is there, as a passive declare says.
async fn is_there(client: &mut Client, queue: &str) -> bool {
    let passive = queue::Declare { passive: true, ..transient(queue) };
    client.send(1, Method::QueueDeclare(passive)).await;
    let there = client
        .find("the answer to a passive declare", |heard| match heard {
            Heard::Method(1, plain) if plain.id == (50, 11) => Some(Ok(())),
            Heard::ChannelClosed(1, close) => Some(Err(close.clone())),
            _ => None,
        })
        .await;
    let Err(close) = there else { return true };
    client.send(1, Method::ChannelCloseOk(amqp::method::channel::CloseOk {})).await;
    client.open(1).await;
    assert!([404, 405].contains(&close.code), "{close:?}");
    if close.code == 404 {
        assert_eq!(close.text, format!("NOT_FOUND - no queue '{queue}' in vhost '/'"));
    }
    close.code == 405
}

async fn gone(client: &mut Client, queue: &str) {
    crate::within(crate::PATIENCE, "the queue is gone", async { while is_there(client, queue).await {} })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_queue_is_for_one_connection_and_goes_with_it() {
    let broker = Broker::start().await;
    let mut other = Client::connect(broker.address).await;
    for round in 0..20 {
        let mut owner = Client::connect(broker.address).await;
        owner.declare(queue::Declare { exclusive: true, ..durable("q") }).await;
        owner.publish("", "q", "mine").await;
        assert_eq!(owner.counts("q").await, (1, 0));
        for method in [
            Method::QueueDeclare(transient("q")),
            Method::QueueDeclare(queue::Declare { passive: true, ..transient("q") }),
            Method::BasicConsume(consumer("q", "c")),
            Method::BasicGet(basic::Get { queue: "q", no_ack: true }),
            Method::QueuePurge(queue::Purge { queue: "q", nowait: false }),
            Method::QueueDelete(queue::Delete {
                queue: "q",
                if_unused: false,
                if_empty: false,
                nowait: false,
            }),
        ] {
            other.send(1, method).await;
            let close = other.channel_closed(1).await;
            assert_eq!((close.code, close.method), (405, method.id()), "{}", method.name());
            let text = "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'";
            assert!(close.text.starts_with(text), "{}", close.text);
        }
        if round % 2 == 0 {
            owner.close().await;
        } else {
            drop(owner);
        }
        gone(&mut other, "q").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auto_delete_queue_goes_with_its_last_consumer() {
    let broker = Broker::start_sharded().await;
    let mut other = Client::connect(broker.address).await;
    let auto_delete = queue::Declare { auto_delete: true, ..transient("q") };
    for ending in ["cancel", "channel", "connection", "socket"] {
        let mut client = Client::connect(broker.address).await;
        client.declare(auto_delete).await;
        client.open(2).await;
        client.consume(2, consumer("q", "c")).await;
        assert!(is_there(&mut other, "q").await);
        match ending {
            "cancel" => {
                let cancel = basic::Cancel { consumer_tag: "c", nowait: false };
                client.call(2, Method::BasicCancel(cancel)).await;
            }
            "channel" => client.close_channel(2).await,
            "connection" => client.close().await,
            _ => drop(client),
        }
        gone(&mut other, "q").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_can_be_declared_while_its_auto_delete_queue_goes() {
    let broker = Broker::start().await;
    let auto_delete = queue::Declare { auto_delete: true, ..transient("q") };
    let mut declarer = Client::connect(broker.address).await;
    for _ in 0..200 {
        let mut consumer_ = Client::connect(broker.address).await;
        consumer_.declare(auto_delete).await;
        consumer_.consume(1, consumer("q", "c")).await;
        drop(consumer_);
        // Until it is a new one: each of these must succeed, whichever queue it finds.
        while declarer.declare(auto_delete).await.consumers > 0 {}
        declarer.delete("q").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_deletes_a_queue_and_goes_leaves_no_ruin() {
    let broker = Broker::start().await;
    let mut other = Client::connect(broker.address).await;
    for round in 0..100 {
        let name = format!("q{round}");
        let mut client = Client::connect(broker.address).await;
        client.declare(transient(&name)).await;
        let delete = queue::Delete { queue: &name, if_unused: false, if_empty: false, nowait: false };
        client.send(1, Method::QueueDelete(delete)).await;
        drop(client);
        // Deleted or not, it must be one of the two.
        other.declare(transient(&name)).await;
        other.delete(&name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_can_be_deleted_and_declared_again_in_the_middle_of_everything() {
    let broker = Broker::start_sharded().await;
    let mut publisher = Client::connect(broker.address).await;
    let mut taker = Client::connect(broker.address).await;
    publisher.select_confirms(1).await;
    for round in 0..30_u64 {
        taker.declare(durable("q")).await;
        let tag = taker.consume(1, consumer("q", "c")).await;
        for _ in 0..50 {
            publisher.publish_with(1, "", "q", persistent(), round.to_string()).await;
        }
        taker.delivery(1).await;
        taker.delete("q").await;
        assert_eq!(taker.expect(1, (60, 30)).await.text, tag, "the consumer is cancelled");
        taker.deliveries_so_far(1);
        publisher.confirmed(1, round * 50 + 1, round * 50 + 50).await;
        // Acks of what was delivered from the queue that is gone are fine, and do nothing.
        taker.ack(1, 0, true).await;
        taker.declare(durable("q")).await;
        assert!(taker.drain("q").await.is_empty(), "the new queue of round {round} has old messages");
        taker.delete("q").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_on_a_delete_are_kept() {
    let broker = Broker::start().await;
    let mut client = Client::connect(broker.address).await;
    client.declare(transient("q")).await;
    client.publish("", "q", "x").await;
    let delete = queue::Delete { queue: "q", if_unused: false, if_empty: true, nowait: false };
    client.send(1, Method::QueueDelete(delete)).await;
    assert_eq!(client.channel_closed(1).await.text, "PRECONDITION_FAILED - queue 'q' in vhost '/' not empty");
    client.open(2).await;
    client.consume(2, consumer("q", "c")).await;
    let delete = queue::Delete { queue: "q", if_unused: true, if_empty: false, nowait: false };
    client.send(1, Method::QueueDelete(delete)).await;
    assert_eq!(client.channel_closed(1).await.text, "PRECONDITION_FAILED - queue 'q' in vhost '/' in use");
    client.close_channel(2).await;
    assert_eq!(client.delete("q").await, 1);
    assert_eq!(client.delete("q").await, 0, "none is fine");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_message_is_none() {
    let broker = Broker::start().await;
    let mut watcher = Client::connect(broker.address).await;
    watcher.declare(transient("q")).await;
    let publish = basic::Publish { exchange: "", routing_key: "q", mandatory: false, immediate: false };
    let mut whole = Vec::new();
    amqp::frame::method(&mut whole, 1, &Method::BasicPublish(publish));
    whole.extend(raw_frame(2, 1, &content_header(6)));
    whole.extend(raw_frame(3, 1, b"foo"));
    whole.extend(raw_frame(3, 1, b"bar"));
    for cut in 0..whole.len() {
        let mut client = Client::connect(broker.address).await;
        client.publish("", "q", "before").await;
        client.write(&whole[..cut]).await;
        client.stream.shutdown().await.unwrap();
        client.ended().await;
    }
    let cuts = u32::try_from(whole.len()).unwrap();
    eventually("all that was whole", async || (watcher.counts("q").await.0 == cuts).then_some(())).await;
    assert!(watcher.drain("q").await.iter().all(|text| text == "before"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_before_a_close_arrives() {
    const CLIENTS: usize = 8;
    const SIZE: usize = 8 << 20;
    let broker = Broker::start().await;
    let mut watcher = Client::connect(broker.address).await;
    watcher.declare(durable("q")).await;
    // Each is more than may be under way to a shard, so they wait for each other.
    let body = Arc::new(vec![b'x'; SIZE]);
    let mut clients = JoinSet::new();
    let all_here = Arc::new(Barrier::new(CLIENTS));
    for _ in 0..CLIENTS {
        let (address, body, all_here) = (broker.address, Arc::clone(&body), Arc::clone(&all_here));
        clients.spawn(async move {
            let mut client = Client::connect(address).await;
            let mut out = Vec::new();
            let publish = amqp::content::Publish { mandatory: false };
            client.put_publish(&mut out, 1, ("", "q"), publish, persistent(), &body);
            amqp::frame::method(&mut out, 0, &Method::ConnectionClose(bye()));
            let (most, rest) = out.split_at(out.len() - 1000);
            client.write(most).await;
            all_here.wait().await;
            client.write(rest).await;
            client.expect(0, (10, 51)).await;
        });
    }
    clients.join_all().await;
    let all = u32::try_from(CLIENTS).unwrap();
    eventually("every message", async || (watcher.counts("q").await.0 == all).then_some(())).await;
}
