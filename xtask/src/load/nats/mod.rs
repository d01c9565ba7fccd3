//! The same work as `leveret perf` does, for a NATS server: core publish and subscribe, or JetStream with file
//! storage, where publishes are acknowledged by the stream and deliveries by the consumer.

mod consumer;
mod link;
mod producer;
mod scan;
mod subjects;

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::Serialize;

use super::measure::board::Board;
use super::measure::latency::Latencies;
use super::measure::options::Load;
use super::measure::report::{Noted, Report};
use super::measure::run::{Crew, Measured, measure};
use consumer::Consumer;
use link::Link;
use producer::{Batch, Producer};
use subjects::Subjects;

/// Bytes of the time that a message carries if latencies are told.
const STAMP_SIZE: usize = 8;

/// Measure a NATS server as `leveret perf` measures an AMQP broker.
#[derive(Clone, Debug, Parser, Serialize)]
#[command(after_help = "Examples:
  cargo xtask nats-load --size 1024
  cargo xtask nats-load --jetstream --confirm 1000 --ack 250")]
pub(super) struct Nats {
    /// Host and port of the server
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4222")]
    server: String,

    /// Keep messages in JetStream streams with file storage, one per subject
    #[arg(long)]
    jetstream: bool,

    /// Subjects; each producer publishes to its share of them in turn
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "fanout")]
    queues: u32,

    #[command(flatten)]
    load: Load,
}

#[derive(Debug)]
enum Left {
    Producer(Producer),
    Consumer(Consumer),
}

#[derive(Serialize)]
struct Printed<'a> {
    generator: &'static str,
    options: &'a Nats,
    #[serde(flatten)]
    report: &'a Report,
}

impl Nats {
    pub(super) fn run(self) -> Result<()> {
        self.check()?;
        let subjects =
            Subjects::new(std::process::id(), if self.load.fanout.is_some() { 1 } else { self.queues });
        let mut control = Link::open(&self.server)?;
        if self.jetstream {
            subjects.create_streams(&mut control)?;
        }
        let report = self.measure(&subjects);
        if self.jetstream {
            Link::open(&self.server).and_then(|mut link| subjects.delete_streams(&mut link))?;
        }
        let report = report?;
        if self.load.json {
            let printed = Printed { generator: "xtask nats-load", options: &self, report: &report };
            println!("{}", serde_json::to_string(&printed)?);
        } else {
            print!("{report}");
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        self.load.check()?;
        let needs_jetstream =
            self.load.confirm.is_some() || self.load.ack.is_some() || self.load.consume_only;
        ensure!(self.jetstream || !needs_jetstream, "--confirm, --ack and --consume-only need --jetstream");
        ensure!((1..=1000).contains(&self.queues), "--queues is {}, expected 1 to 1000", self.queues);
        let size = self.load.size;
        ensure!(
            self.load.rate.is_none() || size >= STAMP_SIZE,
            "--size is {size}, but --rate needs {STAMP_SIZE} bytes"
        );
        Ok(())
    }

    fn measure(&self, subjects: &Subjects) -> Result<Report> {
        if let Some(prefill) = self.load.prefill {
            let mut filling = self.clone();
            filling.load = Load {
                consume_only: false,
                prefill: None,
                publish_only: true,
                count: Some(prefill),
                confirm: Some(1000),
                ..self.load.clone()
            };
            filling.drive(subjects)?;
        }
        let (measured, noted) = self.drive(subjects)?;
        Ok(Report::new(&self.load, &measured, &noted))
    }

    fn drive(&self, subjects: &Subjects) -> Result<(Measured, Noted)> {
        let producers = if self.load.consume_only { 0 } else { self.load.producers };
        let consumers = if self.load.publish_only { 0 } else { self.load.consumers };
        let connect = |_| Link::open(&self.server);
        let producer_links = (0..producers).map(connect).collect::<Result<Vec<_>>>()?;
        let mut consumer_links = (0..consumers).map(connect).collect::<Result<Vec<_>>>()?;
        for (number, link) in (0..).zip(&mut consumer_links) {
            self.subscribe(subjects, link, number)?;
        }
        let board = Arc::new(Board::new(usize::try_from(producers + consumers)?));
        let mut crew = Crew::new(Arc::clone(&board));
        for (number, link) in (0..).zip(consumer_links) {
            let mut consumer = self.consumer(&board, number)?;
            crew.other(format!("consumer {number}"), move || {
                let outcome = consumer.run(link);
                (Left::Consumer(consumer), outcome)
            })?;
        }
        for (number, link) in (0..).zip(producer_links) {
            let mut producer = self.producer(subjects, &board, number, consumers)?;
            crew.producer(format!("producer {number}"), move || {
                let outcome = producer.run(link);
                (Left::Producer(producer), outcome)
            })?;
        }
        let measured = measure(&crew, &self.load, self.load.rate.is_some());
        let left = crew.finish()?;
        let measured = measured?;
        Ok((measured, self.note(&measured, left)))
    }

    /// Subscribes to this consumer's share. Without streams that must be done before anybody publishes.
    fn subscribe(&self, subjects: &Subjects, link: &mut Link, consumer: u32) -> Result<()> {
        let places = self.load.fanout.unwrap_or(self.queues);
        for place in subjects::share(places, consumer, self.load.consumers) {
            let subject = if self.load.fanout.is_some() { 0 } else { place };
            if self.jetstream {
                let prefetch = self.load.ack.map(|_| self.load.prefetch);
                subjects.consume(link, subject, place, prefetch)?;
            } else {
                link.subscribe(&subjects.name(subject), place)?;
            }
        }
        if !self.jetstream {
            link.flush()?;
        }
        Ok(())
    }

    fn latencies(&self) -> Option<Latencies> {
        self.load.rate.map(|_| Latencies::new(self.load.extent().due_within()))
    }

    fn producer(
        &self,
        subjects: &Subjects,
        board: &Arc<Board>,
        number: u32,
        consumers: u32,
    ) -> Result<Producer> {
        let names: Vec<String> = match self.load.fanout {
            Some(_) => vec![subjects.name(0)],
            None => subjects::share(self.queues, number, self.load.producers)
                .map(|it| subjects.name(it))
                .collect(),
        };
        let reply = self.load.confirm.map(|_| subjects::inbox(number));
        Ok(Producer {
            batch: Batch::new(&names, reply.as_deref(), self.load.size),
            board: Arc::clone(board),
            lane: board.lane(usize::try_from(consumers + number)?),
            share: self.load.share(number),
            window: self.load.confirm.map(u64::from),
            reply,
            schedule: self.load.schedule(number),
            sent: 0,
            confirm: self.latencies().filter(|_| self.load.confirm.is_some()),
            is_pong_due: Arc::default(),
        })
    }

    fn consumer(&self, board: &Arc<Board>, number: u32) -> Result<Consumer> {
        Ok(Consumer {
            board: Arc::clone(board),
            lane: board.lane(usize::try_from(number).context("a small number")?),
            ack_every: self.load.ack.map(u64::from),
            delivery: self.latencies(),
            consumed: 0,
            unacknowledged: 0,
        })
    }

    fn note(&self, measured: &Measured, left: Vec<Left>) -> Noted {
        let (mut confirm, mut delivery) = (Vec::new(), Vec::new());
        for one in left {
            match one {
                Left::Producer(producer) => confirm.extend(producer.confirm),
                Left::Consumer(consumer) => delivery.extend(consumer.delivery),
            }
        }
        let copies = u64::from(self.load.fanout.unwrap_or(1));
        let whole = measured.whole_run;
        let is_told = self.load.rate.is_some() && !self.load.publish_only;
        Noted {
            delivery: Latencies::summary_of(&delivery),
            confirm: Latencies::summary_of(&confirm),
            missing: is_told.then(|| (whole.published * copies).saturating_sub(whole.consumed)),
            verified: false,
        }
    }
}
