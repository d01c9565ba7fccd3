//! `leveret delayed`.

use std::io::{Write, stdout};
use std::process::ExitCode;

use amqp::client::Event;
use amqp::content::{Message, put_exchange_and_key};
use amqp::method::{Method, basic, confirm, queue};
use amqp::properties::PropertiesBuilder;
use amqp::table::{Table, TableBuilder, Value};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use crate::client::Client;
use crate::json::Delivery;
use crate::url::{Url, short_string};

const CHANNEL: u16 = 1;

/// See what waits behind an exchange of type x-delayed-message, or call it off.
#[derive(Debug, Args)]
pub(crate) struct Delayed {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    List(List),
    Cancel(Cancel),
}

/// Print the messages that wait, in the order of their time: when, in milliseconds since 1970, the id and the routing key.
///
/// Nothing is taken. Needs read permission for the queue amq.delayed.EXCHANGE.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    leveret delayed list reminders\n  \
    leveret delayed list reminders --json | jq .headers")]
struct List {
    #[command(flatten)]
    url: Url,

    /// The exchange
    #[arg(value_parser = short_string)]
    exchange: String,

    /// Print each message as JSON, on a line: properties, headers (x-deliver-at says when), and the body
    #[arg(long)]
    json: bool,
}

/// Call off the messages that wait with this id, their property message-id. Exits with 1 when there is none.
///
/// Needs write permission for the exchange.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  leveret delayed cancel reminders order-4711")]
struct Cancel {
    #[command(flatten)]
    url: Url,

    /// The exchange
    #[arg(value_parser = short_string)]
    exchange: String,

    /// The property message-id of the messages
    #[arg(value_parser = short_string)]
    id: String,
}

impl Delayed {
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self.action {
            Action::List(list) => list.run(),
            Action::Cancel(cancel) => cancel.run(),
        }
    }
}

impl List {
    fn run(self) -> Result<ExitCode> {
        let mut client = self.url.connect("leveret delayed list")?;
        client.open_channel(CHANNEL)?;
        let consume = basic::Consume {
            queue: &queue_of(&self.exchange),
            consumer_tag: "leveret-delayed",
            no_local: false,
            no_ack: true,
            exclusive: false,
            nowait: false,
            arguments: Table::EMPTY,
        };
        client.send(CHANNEL, &Method::BasicConsume(consume));
        let (mut out, mut is_over) = (stdout().lock(), false);
        while !is_over {
            let heard = client.wait(None, None, |event| {
                match event {
                    Event::Content { method: Method::BasicDeliver(deliver), properties, body, .. } => {
                        let basic::Deliver { exchange, routing_key, redelivered, .. } = deliver;
                        let delivery = Delivery { exchange, routing_key, redelivered, properties, body };
                        writeln!(out, "{}", self.line(&delivery))?;
                    }
                    Event::Method { method: Method::BasicCancel(_), .. } => is_over = true,
                    _ => {}
                }
                Ok(())
            });
            heard.with_context(|| format!("cannot list what waits behind exchange '{}'", self.exchange))?;
        }
        client.close()?;
        Ok(ExitCode::SUCCESS)
    }

    fn line(&self, delivery: &Delivery<'_>) -> String {
        if self.json {
            return delivery.to_json().to_string();
        }
        let headers = delivery.properties.headers().unwrap_or_default();
        let at = match headers.get("x-deliver-at") {
            Some(Value::Timestamp(seconds)) => seconds.saturating_mul(1000).to_string(),
            Some(at) => at.as_int().unwrap_or_default().to_string(),
            None => String::new(),
        };
        let id = delivery.properties.message_id().unwrap_or("-");
        format!("{at}\t{}\t{}", id.escape_debug(), delivery.routing_key.escape_debug())
    }
}

impl Cancel {
    fn run(self) -> Result<ExitCode> {
        let Cancel { url, exchange, id } = self;
        let mut client = url.connect("leveret delayed cancel")?;
        client.open_channel(CHANNEL)?;
        let select = Method::ConfirmSelect(confirm::Select { nowait: false });
        client.call(CHANNEL, &select, |method| matches!(method, Method::ConfirmSelectOk(_)).then_some(()))?;
        check_type(&mut client, &exchange)?;
        publish(&mut client, &exchange, &id);
        let (mut is_returned, mut is_confirmed) = (false, false);
        while !is_confirmed {
            let heard = client.wait(None, None, |event| {
                is_returned |= matches!(event, Event::Content { method: Method::BasicReturn(_), .. });
                is_confirmed |= matches!(event, Event::Method { method: Method::BasicAck(_), .. });
                Ok(())
            });
            heard.with_context(|| format!("cannot call off '{id}' at exchange '{exchange}'"))?;
        }
        client.close()?;
        if is_returned {
            bail!("no message with the id '{id}' waits behind exchange '{exchange}'");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Where messages of an exchange wait.
fn queue_of(exchange: &str) -> String {
    format!("amq.delayed.{exchange}")
}

/// Another exchange would take what calls messages off for a message.
fn check_type(client: &mut Client, exchange: &str) -> Result<()> {
    let declare = queue::Declare {
        queue: &queue_of(exchange),
        passive: true,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Table::EMPTY,
    };
    let declared = client.call(CHANNEL, &Method::QueueDeclare(declare), |method| {
        matches!(method, Method::QueueDeclareOk(_)).then_some(())
    });
    declared.with_context(|| format!("there is no exchange '{exchange}' of type x-delayed-message"))
}

fn publish(client: &mut Client, exchange: &str, id: &str) {
    let headers = TableBuilder::new().with("x-cancel", id);
    let headers = Some(headers.as_table());
    let properties = PropertiesBuilder { headers, ..PropertiesBuilder::default() }.to_bytes();
    let mut exchange_and_key = Vec::new();
    put_exchange_and_key(&mut exchange_and_key, exchange, "");
    let message = Message { exchange_and_key: &exchange_and_key, properties: &properties, body: b"" };
    client.publish(CHANNEL, amqp::content::Publish { mandatory: true }, message);
}
