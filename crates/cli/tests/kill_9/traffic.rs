//! Publishers and consumers of one life of the broker. All end when their connection does.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_core::Stream;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ExchangeKind, PublisherConfirm,
    Result,
};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::history::{FANOUT, History, Id, QUEUES};

/// Messages a publisher sends before it waits for the first confirm.
pub(crate) const WINDOWS: [usize; 3] = [1, 100, 1000];

const PREFETCH: u16 = 100;

/// How long after it was told to stop a client goes on.
const MOMENT: Duration = Duration::from_millis(300);

/// How long closing a connection may take: it may be lost, and the client not know.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long after the loss of a connection its last confirms may be looked for. The client forgets to say of some that
/// they will never come.
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(200);

/// The history, and who waits for news of it.
#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<(Mutex<History>, Notify)>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, History> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until more messages are confirmed than these.
    pub(crate) async fn more_than(&self, confirmed: usize) {
        while self.lock().confirmed() <= confirmed {
            self.0.1.notified().await;
        }
    }

    fn confirm(&self, id: Id) {
        self.lock().confirm(id);
        self.0.1.notify_one();
    }
}

/// Lets time pass, where nothing tells when it is enough.
pub(crate) async fn pass(time: Duration) {
    let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
}

pub(crate) async fn connect(address: &str) -> Result<(Connection, Channel)> {
    let connection =
        Connection::connect(&format!("amqp://{address}/%2f"), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

/// Declares everything; how many messages wait.
pub(crate) async fn declare(channel: &Channel) -> Result<u32> {
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(FANOUT.into(), ExchangeKind::Fanout, durable, FieldTable::default()).await?;
    let mut waiting = 0;
    for queue in QUEUES {
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        waiting += channel.queue_declare(queue.into(), durable, FieldTable::default()).await?.message_count();
        let none = QueueBindOptions::default();
        channel.queue_bind(queue.into(), FANOUT.into(), "".into(), none, FieldTable::default()).await?;
    }
    Ok(waiting)
}

/// Publishes until the connection is lost, and a moment after `stop` at the latest.
pub(crate) async fn publish(
    address: String,
    publisher: u32,
    window: usize,
    history: Shared,
    stop: watch::Receiver<bool>,
) {
    let mut pending = VecDeque::new();
    // Its connection must live as long as confirms are waited for.
    let Ok((_connection, channel)) = connect(&address).await else {
        return;
    };
    tokio::select! {
        _ = publish_on(&channel, publisher, window, &history, &mut pending) => {}
        () = a_moment_after(stop) => {}
    }
    let deadline = Instant::now() + CONFIRM_TIMEOUT;
    for (id, confirm) in pending {
        // After the deadline this still takes those that are there.
        if let Ok(Ok(confirmation)) = tokio::time::timeout_at(deadline, confirm).await
            && confirmation.is_ack()
        {
            history.confirm(id);
        }
    }
}

/// The client does not always notice that a connection is lost, so whoever waits for it also waits for this.
async fn a_moment_after(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
    pass(MOMENT).await;
}

async fn publish_on(
    channel: &Channel,
    publisher: u32,
    window: usize,
    history: &Shared,
    pending: &mut VecDeque<(Id, PublisherConfirm)>,
) -> Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    loop {
        while pending.len() < window {
            let id = history.lock().attempt(publisher);
            let (exchange, key) = id.route();
            let name = format!("{}-{}", id.publisher, id.sequence);
            let properties = BasicProperties::default().with_delivery_mode(2).with_message_id(name.into());
            let none = BasicPublishOptions::default();
            let confirm =
                channel.basic_publish(exchange.into(), key.into(), none, &id.body(), properties).await?;
            pending.push_back((id, confirm));
        }
        let Some((id, confirm)) = pending.pop_front() else { return Ok(()) };
        let confirmation = confirm.await?;
        assert!(confirmation.is_ack(), "{id:?}: {confirmation:?}");
        history.confirm(id);
    }
}

/// Takes and acks until the connection is lost, and a moment after `stop` at the latest.
pub(crate) async fn consume(address: String, queue: usize, history: Shared, stop: watch::Receiver<bool>) {
    let Ok((connection, channel)) = connect(&address).await else {
        return;
    };
    let consuming = async {
        let mut consumer = start_consumer(&channel, queue).await?;
        while let Some(delivery) = poll_fn(|context| Pin::new(&mut consumer).poll_next(context)).await {
            take(&delivery?, queue, &history).await?;
        }
        Result::Ok(())
    };
    tokio::select! {
        _ = consuming => {}
        () = a_moment_after(stop) => {}
    }
    close(&connection).await;
}

async fn start_consumer(channel: &Channel, queue: usize) -> Result<Consumer> {
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let none = BasicConsumeOptions::default();
    channel.basic_consume(QUEUES[queue].into(), "".into(), none, FieldTable::default()).await
}

async fn close(connection: &Connection) {
    if connection.status().connected() {
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close(200, "done".into())).await;
    }
}

/// The same with basic.get.
pub(crate) async fn get(address: String, queue: usize, history: Shared, stop: watch::Receiver<bool>) {
    let Ok((connection, channel)) = connect(&address).await else {
        return;
    };
    let getting = async {
        loop {
            match channel.basic_get(QUEUES[queue].into(), BasicGetOptions::default()).await? {
                Some(message) => take(&message.delivery, queue, &history).await?,
                None => tokio::task::yield_now().await,
            }
        }
    };
    tokio::select! {
        Result::<()>::Err(_) = getting => {}
        () = a_moment_after(stop) => {}
    }
    close(&connection).await;
}

async fn take(delivery: &Delivery, queue: usize, history: &Shared) -> Result<()> {
    let acks = note(delivery, queue, history).is_none_or(|id| history.lock().acks(queue, id));
    if acks {
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

/// Remembers a delivery and checks its bytes.
fn note(delivery: &Delivery, queue: usize, history: &Shared) -> Option<Id> {
    let mut history = history.lock();
    let id = Id::of(&delivery.data).filter(|id| {
        let (exchange, key) = id.route();
        let name = format!("{}-{}", id.publisher, id.sequence);
        let properties = &delivery.properties;
        let named = properties.message_id().as_ref().is_some_and(|id| id.as_str() == name);
        named
            && *properties.delivery_mode() == Some(2)
            && delivery.exchange.as_str() == exchange
            && delivery.routing_key.as_str() == key
    });
    match id {
        Some(id) => history.deliver(queue, id, delivery.redelivered),
        None => history.corrupt += 1,
    }
    id
}
