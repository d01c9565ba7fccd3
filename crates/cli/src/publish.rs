//! `leveret publish`.

use std::ffi::OsString;
use std::fmt;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use amqp::client::Event;
use amqp::content::{Message, put_exchange_and_key};
use amqp::method::{Method, basic, confirm, queue};
use amqp::table::Table;
use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Args};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde::Serialize;

use crate::bodies::{Bodies, Lines, Next};
use crate::client::Client;
use crate::properties::Written;
use crate::url::{Url, queue_name, short_string};
use crate::window::Window;

const CHANNEL: u16 = 1;

/// Fewer messages than this are gone before a progress bar could be read.
const PROGRESS_MIN: usize = 1000;

/// Publish messages, and wait until the broker has confirmed them all.
///
/// Messages are persistent, unless --transient. Exits with 1 when a message was not confirmed, or came back because it
/// could not be routed.
#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("bodies").required(true).args(["body", "lines", "file"])),
    group(ArgGroup::new("route").required(true).multiple(true).args(["queue", "exchange", "routing_key"])),
    after_help = "Examples:\n  \
        leveret publish --queue orders --declare 'one order' 'another order'\n  \
        leveret publish --exchange logs --routing-key web.error --lines < errors.txt\n  \
        leveret publish --queue images --property content-type=image/png --file a.png --file b.png"
)]
pub(crate) struct Publish {
    #[command(flatten)]
    url: Url,

    /// Bodies, one message each
    #[arg(value_name = "BODY")]
    body: Vec<OsString>,

    /// Publish each line of standard input, as it comes
    #[arg(long)]
    lines: bool,

    /// Publish the content of a file (repeatable)
    #[arg(long, value_name = "FILE")]
    file: Vec<PathBuf>,

    /// Publish to this queue, by the default exchange; implies --mandatory
    #[arg(long, value_name = "NAME", value_parser = queue_name, conflicts_with_all = ["exchange", "routing_key"])]
    queue: Option<String>,

    /// Create the queue first, durable, if it is not there
    #[arg(long, requires = "queue")]
    declare: bool,

    /// Publish to this exchange [default: the default exchange]
    #[arg(long, value_name = "NAME", value_parser = short_string)]
    exchange: Option<String>,

    /// Routing key [default: empty]
    #[arg(long, value_name = "KEY", value_parser = short_string)]
    routing_key: Option<String>,

    #[command(flatten)]
    properties: Written,

    /// Fail when a message reaches no queue
    #[arg(long)]
    mandatory: bool,

    /// Messages that may wait for their confirms
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    window: u32,

    /// Print a summary as JSON
    #[arg(long)]
    json: bool,
}

impl Publish {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let started = Instant::now();
        let properties = self.properties.encode()?;
        let client = self.open()?;
        let mut publisher = Publisher {
            client,
            exchange_and_key: self.exchange_and_key(),
            properties,
            method: amqp::content::Publish { mandatory: self.mandatory || self.queue.is_some() },
            answers: Answers::new(usize::try_from(self.window)?),
            bodies: self.bodies()?,
        };
        let result = publisher.run();
        let Publisher { client, answers, .. } = publisher;
        let summary = Summary { seconds: started.elapsed().as_secs_f64(), ..answers.summary };
        if self.json {
            print(&serde_json::to_string(&summary)?)?;
        }
        let Summary { published, confirmed, .. } = summary;
        result.with_context(|| {
            format!("publishing ended after {confirmed} of {published} messages were confirmed")
        })?;
        if !answers.is_blocked {
            // All is confirmed, so nothing depends on how the connection ends; and a broker that blocks us hears nothing.
            let _ = client.close();
        }
        if let Some(problem) = summary.problem() {
            bail!("{problem}{}", answers.detail.unwrap_or_default());
        }
        if !self.json {
            print(&format!("messages confirmed: {confirmed}"))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// A client whose first channel confirms.
    fn open(&self) -> Result<Client> {
        let mut client = self.url.connect("leveret publish")?;
        client.open_channel(CHANNEL)?;
        if let Some(queue) = self.queue.as_deref().filter(|_| self.declare) {
            let declare = queue::Declare {
                queue,
                passive: false,
                durable: true,
                exclusive: false,
                auto_delete: false,
                nowait: false,
                arguments: Table::EMPTY,
            };
            let declared = client.call(CHANNEL, &Method::QueueDeclare(declare), |method| {
                matches!(method, Method::QueueDeclareOk(_)).then_some(())
            });
            declared.with_context(|| format!("cannot declare the queue '{queue}'"))?;
        }
        let select = Method::ConfirmSelect(confirm::Select { nowait: false });
        client.call(CHANNEL, &select, |method| matches!(method, Method::ConfirmSelectOk(_)).then_some(()))?;
        Ok(client)
    }

    fn exchange_and_key(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let exchange = self.exchange.as_deref().unwrap_or_default();
        let key = self.queue.as_deref().or(self.routing_key.as_deref()).unwrap_or_default();
        put_exchange_and_key(&mut bytes, exchange, key);
        bytes
    }

    fn bodies(&self) -> Result<Bodies> {
        Ok(if self.lines {
            Bodies::Lines(Lines::of_stdin()?)
        } else if self.file.is_empty() {
            Bodies::Arguments(self.body.clone().into_iter())
        } else {
            Bodies::Files(self.file.clone().into_iter())
        })
    }
}

fn print(text: &str) -> Result<()> {
    writeln!(stdout(), "{text}").context("cannot write to standard output")
}

/// Publishes all bodies, with at most a window of them unconfirmed.
struct Publisher {
    client: Client,
    exchange_and_key: Vec<u8>,
    properties: Vec<u8>,
    method: amqp::content::Publish,
    bodies: Bodies,
    answers: Answers,
}

/// Why no further message was published.
enum Pause {
    /// There is enough for a write.
    Batch,
    /// The window is full.
    Window,
    /// The next body has not been read.
    Input,
    /// There are no more bodies.
    End,
}

impl Publisher {
    fn run(&mut self) -> Result<()> {
        let progress = progress_bar(&self.bodies);
        loop {
            let pause = self.publish()?;
            if matches!(pause, Pause::End) && self.answers.window.is_empty() {
                break;
            }
            let Publisher { client, bodies, answers, .. } = self;
            let mut hear = |event: Event<'_>| answers.hear(event, &progress);
            match pause {
                Pause::Batch => client.flush(hear)?,
                Pause::Window | Pause::End => {
                    client.wait(None, None, hear)?;
                }
                Pause::Input => {
                    client.flush(&mut hear)?;
                    if client.wait(bodies.input(), None, hear)? {
                        bodies.read()?;
                    }
                }
            }
            progress.set_position(answers.summary.confirmed);
        }
        progress.finish_and_clear();
        Ok(())
    }

    /// Publishes as many bodies as it can without waiting.
    fn publish(&mut self) -> Result<Pause> {
        while self.answers.window.has_room() {
            if self.client.has_batch() {
                return Ok(Pause::Batch);
            }
            let body = match self.bodies.next()? {
                Next::Body(body) => body,
                Next::Wait => return Ok(Pause::Input),
                Next::End => return Ok(Pause::End),
            };
            let message = Message {
                exchange_and_key: &self.exchange_and_key,
                properties: &self.properties,
                body: &body,
            };
            self.client.publish(CHANNEL, self.method, message);
            self.answers.window.publish();
            self.answers.summary.published += 1;
            self.answers.summary.bytes += body.len() as u64;
        }
        Ok(Pause::Window)
    }
}

/// What became of the messages. One that was returned is confirmed, too: the broker is done with it.
#[derive(Clone, Copy, Default, Serialize)]
struct Summary {
    published: u64,
    /// Bytes of bodies.
    bytes: u64,
    confirmed: u64,
    nacked: u64,
    returned: u64,
    seconds: f64,
}

impl Summary {
    fn problem(&self) -> Option<String> {
        let Summary { published, nacked, returned, .. } = self;
        match (nacked, returned) {
            (0, 0) => None,
            (0, _) => Some(format!("{returned} of {published} messages came back")),
            (_, 0) => Some(format!("the broker could not take {nacked} of {published} messages (nack)")),
            _ => Some(format!(
                "{returned} of {published} messages came back, and the broker could not take {nacked} (nack)"
            )),
        }
    }
}

/// Listens to the broker.
struct Answers {
    window: Window,
    summary: Summary,
    /// Of the first message that came back.
    detail: Option<String>,
    is_blocked: bool,
}

impl Answers {
    fn new(window: usize) -> Answers {
        Answers { window: Window::new(window), summary: Summary::default(), detail: None, is_blocked: false }
    }

    fn hear(&mut self, event: Event<'_>, progress: &ProgressBar) -> Result<()> {
        match event {
            Event::Content { method: Method::BasicReturn(returned), .. } => {
                self.summary.returned += 1;
                self.detail.get_or_insert_with(|| detail(&returned));
            }
            Event::Method { method: Method::BasicAck(ack), .. } => {
                self.summary.confirmed += self.window.answer(ack.delivery_tag, ack.multiple)?;
            }
            Event::Method { method: Method::BasicNack(nack), .. } => {
                self.summary.nacked += self.window.answer(nack.delivery_tag, nack.multiple)?;
            }
            Event::Method { method: Method::ConnectionBlocked(blocked), .. } => {
                self.is_blocked = true;
                progress.suspend(|| {
                    eprintln!("leveret: waiting, the broker blocks publishers: {}", blocked.reason)
                });
            }
            Event::Method { method: Method::ConnectionUnblocked(_), .. } => {
                self.is_blocked = false;
                progress.suspend(|| eprintln!("leveret: going on, the broker takes messages again"));
            }
            _ => {}
        }
        Ok(())
    }
}

fn detail(returned: &basic::Return<'_>) -> String {
    let basic::Return { reply_code, reply_text, exchange, routing_key } = returned;
    match *exchange {
        "" => {
            format!(": {reply_code} {reply_text}, there is no queue '{routing_key}' (--declare creates it)")
        }
        _ => format!(
            ": {reply_code} {reply_text}, exchange '{exchange}' has no queue for routing key '{routing_key}'"
        ),
    }
}

/// Nothing, unless somebody looks on and it takes a while.
fn progress_bar(bodies: &Bodies) -> ProgressBar {
    let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
        let _ = write!(out, "{:.0}/s", state.per_sec());
    };
    let style = |template| {
        let style = ProgressStyle::with_template(template).expect("the template is well-formed");
        style.with_key("rate", rate)
    };
    match bodies.count() {
        Some(count) if count >= PROGRESS_MIN => ProgressBar::new(count as u64)
            .with_style(style("{wide_bar} {human_pos} of {human_len} confirmed, {rate}, {eta}")),
        None if !stdin().is_terminal() => {
            ProgressBar::no_length().with_style(style("{spinner} {human_pos} confirmed, {rate}"))
        }
        _ => ProgressBar::hidden(),
    }
}
