//! Who gets how much: prefetch, windows, turns, priorities, and clients that do not read.

use amqp::method::{Method, basic};
use amqp::table::TableBuilder;

use crate::broker::Broker;
use crate::client::{Client, consumer, transient};

async fn publish_numbered(client: &mut Client, queue: &str, count: usize) {
    for number in 0..count {
        client.publish("", queue, number.to_string()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_holds_for_each_consumer_started_afterwards() {
    let broker = Broker::start().await;
    let mut client = Client::connect(broker.address).await;
    client.declare(transient("q")).await;
    client.declare(transient("other")).await;
    client.qos(1, 3, false).await;
    client.consume(1, consumer("q", "three")).await;
    client.qos(1, 5, false).await;
    client.consume(1, consumer("other", "five")).await;
    publish_numbered(&mut client, "q", 10).await;
    publish_numbered(&mut client, "other", 10).await;
    assert_eq!(client.counts("q").await, (7, 1));
    assert_eq!(client.counts("other").await, (5, 1));
    let first = client.deliveries_so_far(1);
    assert_eq!(first.len(), 8);
    client.ack(1, first[1].tag, true).await;
    assert_eq!(client.counts("q").await.0 + client.counts("other").await.0, 10);
    assert_eq!(client.deliveries_so_far(1).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_exact_across_queues_of_different_shards() {
    const WINDOW: usize = 7;
    const QUEUES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    const EACH: usize = 50;
    let broker = Broker::start_sharded().await;
    let mut client = Client::connect(broker.address).await;
    client.qos(1, u16::try_from(WINDOW).unwrap(), true).await;
    for queue in QUEUES {
        client.declare(transient(queue)).await;
        client.consume(1, consumer(queue, queue)).await;
    }
    for queue in QUEUES {
        publish_numbered(&mut client, queue, EACH).await;
    }
    let (mut held, mut done) = (Vec::new(), 0);
    while done < QUEUES.len() * EACH {
        for queue in QUEUES {
            client.counts(queue).await;
        }
        held.extend(client.deliveries_so_far(1));
        let left = QUEUES.len() * EACH - done;
        assert!(held.len() <= WINDOW, "{} outstanding", held.len());
        if held.len() < WINDOW.min(left) {
            held.push(client.delivery(1).await);
            continue;
        }
        for message in held.drain(..WINDOW.min(left).div_ceil(2)) {
            client.ack(1, message.tag, false).await;
            done += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_set_while_deliveries_are_under_way_counts_them() {
    const WINDOW: u32 = 10;
    const COUNT: u32 = 2000;
    let broker = Broker::start().await;
    let mut publisher = Client::connect(broker.address).await;
    let mut taker = Client::connect(broker.address).await;
    for round in 0..20 {
        publisher.declare(transient("q")).await;
        taker.open(2).await;
        taker.consume(2, consumer("q", "c")).await;
        let flood = async {
            for _ in 0..COUNT {
                publisher.publish("", "q", "x").await;
            }
            publisher.counts("q").await;
        };
        let set = async {
            taker.delivery(2).await;
            taker.qos(2, u16::try_from(WINDOW).unwrap(), true).await;
        };
        tokio::join!(flood, set);
        let delivered = COUNT - taker.counts("q").await.0;
        if delivered > WINDOW {
            // As many are left as the window allows, so nothing more may come.
            taker.ack(2, u64::from(delivered - WINDOW), true).await;
            assert_eq!(COUNT - taker.counts("q").await.0, delivered, "round {round}");
        }
        taker.close_channel(2).await;
        publisher.delete("q").await;
        taker.deliveries_so_far(2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_consumers_take_turns() {
    let broker = Broker::start().await;
    let mut client = Client::connect(broker.address).await;
    client.declare(transient("q")).await;
    for tag in ["a", "b", "c"] {
        client.consume(1, consumer("q", tag)).await;
    }
    publish_numbered(&mut client, "q", 300).await;
    assert_eq!(client.counts("q").await, (0, 3));
    let takers: Vec<_> = client.deliveries_so_far(1).into_iter().map(|message| message.consumer).collect();
    assert_eq!(takers.len(), 300);
    for turn in takers.chunks(3) {
        assert_eq!(turn, ["a", "b", "c"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_priority_is_served_while_it_can_take_more() {
    let broker = Broker::start().await;
    let mut client = Client::connect(broker.address).await;
    client.declare(transient("q")).await;
    client.qos(1, 2, false).await;
    for (tag, priority) in [("low", -1), ("normal", 0), ("high", 10)] {
        let arguments = TableBuilder::new().with("x-priority", priority);
        client.consume(1, basic::Consume { arguments: arguments.as_table(), ..consumer("q", tag) }).await;
    }
    publish_numbered(&mut client, "q", 7).await;
    assert_eq!(client.counts("q").await, (1, 3));
    let takers: Vec<_> = client.deliveries_so_far(1).into_iter().map(|message| message.consumer).collect();
    assert_eq!(takers, ["high", "high", "normal", "normal", "low", "low"]);
    client.ack(1, 1, false).await;
    assert_eq!(client.delivery(1).await.consumer, "high");
    let arguments = TableBuilder::new().with("x-priority", "high");
    let consume = basic::Consume { arguments: arguments.as_table(), ..consumer("q", "x") };
    client.send(1, Method::BasicConsume(consume)).await;
    assert_eq!(client.channel_closed(1).await.code, 406);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_consumer_shares_with_nobody() {
    let broker = Broker::start().await;
    let mut client = Client::connect(broker.address).await;
    client.declare(transient("q")).await;
    client.open(2).await;
    client.consume(1, basic::Consume { exclusive: true, ..consumer("q", "alone") }).await;
    client.send(2, Method::BasicConsume(consumer("q", "too"))).await;
    let text = "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use";
    assert_eq!(client.channel_closed(2).await.text, text);
    client.call(1, Method::BasicCancel(basic::Cancel { consumer_tag: "alone", nowait: false })).await;
    client.consume(2, consumer("q", "too")).await;
    client.send(1, Method::BasicConsume(basic::Consume { exclusive: true, ..consumer("q", "alone") })).await;
    assert_eq!(client.channel_closed(1).await.text, text);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_holds_up_itself_and_nobody_else() {
    const COUNT: u32 = 40_000;
    let broker = Broker::start().await;
    let mut publisher = Client::connect(broker.address).await;
    publisher.declare(transient("deaf")).await;
    publisher.declare(transient("quick")).await;
    let mut deaf = Client::connect(broker.address).await;
    deaf.consume(1, basic::Consume { no_ack: true, ..consumer("deaf", "deaf") }).await;
    let mut quick = Client::connect(broker.address).await;
    quick.consume(1, basic::Consume { no_ack: true, ..consumer("quick", "quick") }).await;
    for number in 0..COUNT {
        publisher.publish("", "deaf", [b'x'; 1000]).await;
        publisher.publish("", "quick", number.to_string()).await;
    }
    for number in 0..COUNT {
        assert_eq!(quick.delivery(1).await.text(), number.to_string());
    }
    // What left the queue is in the buffers of two sockets and in what a connection may be sent ahead.
    let waiting = publisher.counts("deaf").await.0;
    assert!(waiting > COUNT / 2, "only {waiting} of {COUNT} still wait in the queue");
    for _ in 0..COUNT {
        deaf.delivery(1).await;
    }
    assert_eq!(publisher.counts("deaf").await, (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_settled_by_who_got_it_and_only_once() {
    let broker = Broker::start().await;
    let mut client = Client::connect(broker.address).await;
    client.declare(transient("q")).await;
    publish_numbered(&mut client, "q", 5).await;
    client.open(2).await;
    client.consume(1, consumer("q", "c")).await;
    for _ in 0..5 {
        client.delivery(1).await;
    }
    // Another channel does not hold it.
    client.ack(2, 1, false).await;
    assert_eq!(client.channel_closed(2).await.text, "PRECONDITION_FAILED - unknown delivery tag 1");
    client.ack(1, 2, true).await;
    client.nack(1, 5, false, false).await;
    client.ack(1, 2, true).await;
    assert_eq!(client.channel_closed(1).await.text, "PRECONDITION_FAILED - unknown delivery tag 2");
    let left: Vec<_> =
        [client.get("q", false).await, client.get("q", false).await].into_iter().flatten().collect();
    let left: Vec<_> =
        left.iter().map(|message| (message.text(), message.redelivered, message.left)).collect();
    assert_eq!(left, [("2", true, 1), ("3", true, 0)]);
    assert_eq!(client.get("q", false).await, None);
    // Tag 0 with multiple is all.
    client.nack(1, 0, true, true).await;
    assert_eq!(client.drain("q").await, ["2", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_back_goes_back_to_its_place() {
    let broker = Broker::start().await;
    let mut client = Client::connect(broker.address).await;
    client.declare(transient("q")).await;
    client.qos(1, 3, false).await;
    client.consume(1, consumer("q", "c")).await;
    publish_numbered(&mut client, "q", 6).await;
    let tags: Vec<_> =
        [client.delivery(1).await, client.delivery(1).await, client.delivery(1).await].map(|m| m.tag).into();
    client.call(1, Method::BasicCancel(basic::Cancel { consumer_tag: "c", nowait: false })).await;
    for tag in [tags[1], tags[0], tags[2]] {
        client.send(1, Method::BasicReject(basic::Reject { delivery_tag: tag, requeue: true })).await;
    }
    let mut order = Vec::new();
    while let Some(message) = client.get("q", true).await {
        order.push((message.text().to_owned(), message.redelivered));
    }
    let expected = [("0", true), ("1", true), ("2", true), ("3", false), ("4", false), ("5", false)];
    assert_eq!(order, expected.map(|(text, redelivered)| (text.to_owned(), redelivered)));
}

#[tokio::test(flavor = "multi_thread")]
async fn recover_gives_back_all_that_a_channel_holds() {
    let broker = Broker::start_sharded().await;
    let mut client = Client::connect(broker.address).await;
    for queue in ["a", "b"] {
        client.declare(transient(queue)).await;
        publish_numbered(&mut client, queue, 2).await;
        client.consume(1, consumer(queue, queue)).await;
        client.delivery(1).await;
        client.delivery(1).await;
    }
    client.call(1, Method::BasicRecover(basic::Recover { requeue: true })).await;
    let mut again = Vec::new();
    for _ in 0..4 {
        let message = client.delivery(1).await;
        assert!(message.redelivered);
        again.push((message.consumer, String::from_utf8(message.body).unwrap()));
    }
    again.sort();
    let expected = [("a", "0"), ("a", "1"), ("b", "0"), ("b", "1")];
    assert_eq!(again, expected.map(|(queue, text)| (queue.to_owned(), text.to_owned())));
    client.send(1, Method::BasicRecover(basic::Recover { requeue: false })).await;
    assert_eq!(client.connection_closed().await.code, 540);
}
