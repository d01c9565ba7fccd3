//! `leveret perf`: a load generator for any AMQP 0-9-1 broker that is not the bottleneck itself. Publishes are
//! encoded once and written many at a time; of what arrives little more than the heads of frames is read; each
//! connection has a thread with a blocking socket.

mod batch;
mod confirms;
mod consumer;
mod link;
mod measure;
mod producer;
mod scan;
mod stamp;
mod topology;
mod verify;

use std::process::ExitCode;
use std::sync::Arc;

use amqp::method::{Method, confirm};
use amqp::uri::Uri;
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use batch::Batch;
use consumer::Consumer;
use link::Link;
use measure::board::Board;
use measure::latency::Latencies;
use measure::options::Load;
use measure::report::{Noted, Report};
use measure::run::{Crew, Measured, measure};
use producer::Producer;
use topology::Topology;
use verify::Verifier;

/// Queues of one run.
const QUEUES_MAX: u32 = 10_000;

/// Measure a broker: messages per second, latencies, processor time.
///
/// Works with any AMQP 0-9-1 broker. Makes fresh queues and deletes them again. Each producer and each consumer
/// has a connection and a thread; queues are shared out among them.
///
/// With --rate, latencies count from when a message was due to be sent, so that a stalled broker cannot hide
/// what it delayed.
#[derive(Clone, Debug, Args, Serialize)]
#[command(after_help = "Examples:
  leveret perf                                   as fast as it goes, 16 bytes, one producer, one consumer
  leveret perf --size 1024 --persistent --confirm 1000 --ack 250
                                                 on the disk before it is confirmed, 1,000 on the way
  leveret perf --size 1024 --persistent --confirm 1000 --ack 1 --rate 5000 --duration 10
                                                 latencies at 5,000 messages per second
  leveret perf --fanout 100 --consumers 10 --json --server-pid $(pidof leveret)")]
pub(crate) struct Perf {
    /// The broker
    #[arg(
        long,
        env = "LEVERET_URL",
        hide_env_values = true,
        value_name = "URL",
        default_value = "amqp://guest:guest@127.0.0.1:5672"
    )]
    #[serde(skip)]
    url: String,

    /// Queues; each producer publishes to its share of them in turn
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "fanout")]
    queues: u32,

    /// Queues survive a restart of the broker
    #[arg(long)]
    durable: bool,

    /// Messages survive a restart of the broker; includes --durable
    #[arg(long)]
    persistent: bool,

    /// The queues are streams, and each consumer reads all of its stream from the beginning; needs --ack
    #[arg(long, requires = "ack", conflicts_with_all = ["verify", "fanout"])]
    stream: bool,

    /// Check every body, the order, and that nothing is missing or comes twice; costs speed
    #[arg(long, conflicts_with_all = ["consume_only", "publish_only"])]
    verify: bool,

    #[command(flatten)]
    load: Load,
}

/// What a thread leaves behind.
#[derive(Debug)]
enum Left {
    Producer(Producer),
    Consumer(Consumer),
}

#[derive(Serialize)]
struct Printed<'a> {
    generator: &'static str,
    options: &'a Perf,
    #[serde(flatten)]
    report: &'a Report,
}

impl Perf {
    pub(crate) fn run(self) -> Result<ExitCode> {
        self.check()?;
        let uri = Uri::parse(&self.url).context("--url")?;
        let topology = self.topology();
        let mut control = Link::open(&uri, "leveret perf".to_owned())?;
        let report =
            topology.declare(&mut control).and_then(|()| self.measure(&uri, &topology, &mut control));
        // The first connection may have been closed in the meantime: it was silent.
        let deleted =
            Link::open(&uri, "leveret perf".to_owned()).and_then(|mut link| topology.delete(&mut link));
        let report = report?;
        deleted.context("measured, but cannot delete the queues")?;
        self.print(&report)?;
        Ok(ExitCode::SUCCESS)
    }

    fn check(&self) -> Result<()> {
        self.load.check()?;
        ensure!(
            (1..=QUEUES_MAX).contains(&self.queues),
            "--queues is {}, expected 1 to {QUEUES_MAX}",
            self.queues
        );
        let size = self.load.size;
        let needed = stamp::STAMP_SIZE;
        ensure!(
            !self.is_stamped() || size >= needed,
            "--size is {size}, but --rate and --verify need {needed} bytes"
        );
        Ok(())
    }

    fn topology(&self) -> Topology {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let prefix = format!("leveret-perf-{}-{}", std::process::id(), now.as_millis());
        let queues = self.load.fanout.unwrap_or(self.queues);
        let durable = self.durable || self.persistent || self.stream;
        let topology = Topology::new(&prefix, queues, self.load.fanout.is_some(), durable);
        if self.stream { topology.of_streams() } else { topology }
    }

    fn measure(&self, uri: &Uri, topology: &Topology, control: &mut Link) -> Result<Report> {
        if let Some(prefill) = self.load.prefill {
            let mut filling = self.clone();
            filling.load = Load {
                consume_only: false,
                prefill: None,
                publish_only: true,
                count: Some(prefill),
                confirm: Some(self.load.confirm.unwrap_or(1000)),
                ..self.load.clone()
            };
            filling.drive(uri, topology)?;
            // Not everybody counts what is in a stream.
            let ready = if self.stream { prefill.get() } else { topology.ready(control)? };
            ensure!(ready == prefill.get(), "{ready} messages are ready after filling, expected {prefill}");
        }
        let (measured, noted) = self.drive(uri, topology)?;
        Ok(Report::new(&self.load, &measured, &noted))
    }

    /// One run: everybody connects, then the clock starts.
    fn drive(&self, uri: &Uri, topology: &Topology) -> Result<(Measured, Noted)> {
        let (producers, consumers) = self.workers();
        let connect = |kind: &str, number| Link::open(uri, format!("leveret perf {kind} {number}"));
        let mut producer_links =
            (0..producers).map(|it| connect("producer", it)).collect::<Result<Vec<_>>>()?;
        let mut consumer_links =
            (0..consumers).map(|it| connect("consumer", it)).collect::<Result<Vec<_>>>()?;
        if self.load.confirm.is_some() {
            producer_links.iter_mut().try_for_each(select_confirms)?;
        }
        if self.load.ack.is_some() {
            let prefetch = self.load.prefetch;
            consumer_links.iter_mut().try_for_each(|link| topology::set_prefetch(link, prefetch))?;
        }
        let board = Arc::new(Board::new(producer_links.len() + consumer_links.len()));
        let mut crew = Crew::new(Arc::clone(&board));
        for (number, link) in (0..).zip(consumer_links) {
            let mut consumer = self.consumer(topology, &board, number);
            crew.other(format!("consumer {number}"), move || {
                let outcome = consumer.run(&link);
                (Left::Consumer(consumer), outcome)
            })?;
        }
        for (number, link) in (0..).zip(producer_links) {
            let mut producer = self.producer(topology, &board, number, &link)?;
            crew.producer(format!("producer {number}"), move || {
                let outcome = producer.run(&link);
                (Left::Producer(producer), outcome)
            })?;
        }
        let measured = measure(&crew, &self.load, self.drains());
        let left = crew.finish()?;
        let measured = measured?;
        Ok((measured, self.note(topology, &measured, left)?))
    }

    /// Whether a timed run goes on until all has arrived.
    fn drains(&self) -> bool {
        self.is_stamped()
    }

    fn is_stamped(&self) -> bool {
        self.verify || self.load.rate.is_some()
    }

    /// How many producers and consumers there are.
    fn workers(&self) -> (u32, u32) {
        let Load { producers, consumers, .. } = self.load;
        (
            if self.load.consume_only { 0 } else { producers },
            if self.load.publish_only { 0 } else { consumers },
        )
    }

    fn latencies(&self) -> Option<Latencies> {
        self.load.rate.map(|_| Latencies::new(self.load.extent().due_within()))
    }

    fn producer(
        &self,
        topology: &Topology,
        board: &Arc<Board>,
        number: u32,
        link: &Link,
    ) -> Result<Producer> {
        let addresses = topology.addresses(number, self.load.producers);
        let body = stamp::filling(self.load.size);
        let (_, consumers) = self.workers();
        Ok(Producer {
            number: u16::try_from(number)?,
            batch: Batch::new(link, &addresses, self.persistent, &body),
            board: Arc::clone(board),
            lane: board.lane(usize::try_from(consumers + number)?),
            share: self.load.share(number),
            window: self.load.confirm.map(u64::from),
            schedule: self.load.schedule(number),
            is_stamped: self.is_stamped(),
            sent: 0,
            confirm: self.latencies().filter(|_| self.load.confirm.is_some()),
        })
    }

    fn consumer(&self, topology: &Topology, board: &Arc<Board>, number: u32) -> Consumer {
        let served = topology.served_by(number, self.load.consumers);
        let names = topology.names(served.clone()).map(str::to_owned);
        Consumer {
            queues: served.into_iter().zip(names).collect(),
            board: Arc::clone(board),
            lane: board.lane(usize::try_from(number).unwrap_or(usize::MAX)),
            ack_every: self.load.ack.map(u64::from),
            reads_stream: self.stream,
            delivery: self.latencies(),
            verifier: self.verify.then(|| Verifier::new(stamp::filling(self.load.size))),
            progress: consumer::Progress::default(),
        }
    }

    fn note(&self, topology: &Topology, measured: &Measured, left: Vec<Left>) -> Result<Noted> {
        let (mut published, mut verifiers) = (Vec::new(), Vec::new());
        let (mut confirm, mut delivery) = (Vec::new(), Vec::new());
        for one in left {
            match one {
                Left::Producer(producer) => {
                    published.push(producer.sent);
                    confirm.extend(producer.confirm);
                }
                Left::Consumer(consumer) => {
                    verifiers.extend(consumer.verifier);
                    delivery.extend(consumer.delivery);
                }
            }
        }
        if self.verify {
            verify::check_all(topology, &published, &verifiers).context("--verify")?;
        }
        let copies = if self.stream { Some(self.load.consumers) } else { self.load.fanout };
        let copies = u64::from(copies.unwrap_or(1));
        let whole = measured.whole_run;
        let is_told = self.drains() && !self.load.publish_only;
        Ok(Noted {
            delivery: Latencies::summary_of(&delivery),
            confirm: Latencies::summary_of(&confirm),
            missing: is_told.then(|| (whole.published * copies).saturating_sub(whole.consumed)),
            verified: self.verify,
        })
    }

    fn print(&self, report: &Report) -> Result<()> {
        if !self.load.json {
            print!("{report}");
            return Ok(());
        }
        let printed =
            Printed { generator: concat!("leveret perf ", env!("CARGO_PKG_VERSION")), options: self, report };
        println!("{}", serde_json::to_string(&printed)?);
        Ok(())
    }
}

fn select_confirms(link: &mut Link) -> Result<()> {
    let select = Method::ConfirmSelect(confirm::Select { nowait: false });
    link.call(&select, |it| matches!(it, Method::ConfirmSelectOk(_)).then_some(()))
}
