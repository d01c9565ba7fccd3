//! The queues of a run: fresh ones, deleted after it.

use amqp::method::{Method, basic, exchange, queue};
use amqp::table::{Table, TableBuilder};
use anyhow::Result;

use super::link::Link;

/// The queues, and how producers reach them.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    /// All names have the same length, so that all publishes have.
    pub(super) queues: Vec<String>,
    /// A fanout exchange to all of them; if there is none, the default exchange is published to.
    pub(super) fanout: Option<String>,
    pub(super) durable: bool,
    /// The queues are streams.
    streams: bool,
}

impl Topology {
    /// Names so many queues after `prefix`.
    pub(super) fn new(prefix: &str, queues: u32, fanout: bool, durable: bool) -> Topology {
        Topology {
            queues: (0..queues).map(|number| format!("{prefix}-{number:04}")).collect(),
            fanout: fanout.then(|| prefix.to_owned()),
            durable,
            streams: false,
        }
    }

    /// The same with streams for queues.
    pub(super) fn of_streams(self) -> Topology {
        Topology { streams: true, ..self }
    }

    /// The queue numbers that the worker of this number serves: each queue has one worker if there are at
    /// least as many queues, else each worker has one queue.
    pub(super) fn served_by(&self, worker: u32, workers: u32) -> Vec<usize> {
        let queues = u32::try_from(self.queues.len()).expect("limited by the options");
        let served: Vec<u32> = if queues <= workers {
            vec![worker % queues]
        } else {
            (0..queues).filter(|queue| queue % workers == worker).collect()
        };
        served.into_iter().map(|queue| usize::try_from(queue).expect("a small number")).collect()
    }

    /// Exchange and routing key of what this producer publishes, in turn.
    pub(super) fn addresses(&self, producer: u32, producers: u32) -> Vec<(&str, &str)> {
        match &self.fanout {
            Some(exchange) => vec![(exchange, "")],
            None => self.names(self.served_by(producer, producers)).map(|queue| ("", queue)).collect(),
        }
    }

    /// The names of these queues.
    pub(super) fn names(&self, numbers: Vec<usize>) -> impl Iterator<Item = &str> {
        numbers.into_iter().filter_map(|number| self.queues.get(number)).map(String::as_str)
    }

    /// Declares and binds all.
    pub(super) fn declare(&self, link: &mut Link) -> Result<()> {
        if let Some(exchange) = &self.fanout {
            let declare = exchange::Declare {
                exchange,
                kind: "fanout",
                passive: false,
                durable: self.durable,
                auto_delete: false,
                internal: false,
                nowait: false,
                arguments: Table::EMPTY,
            };
            link.call(&Method::ExchangeDeclare(declare), |it| {
                matches!(it, Method::ExchangeDeclareOk(_)).then_some(())
            })?;
        }
        for queue in &self.queues {
            self.declare_queue(link, queue, false)?;
            if let Some(exchange) = &self.fanout {
                let bind =
                    queue::Bind { queue, exchange, routing_key: "", nowait: false, arguments: Table::EMPTY };
                link.call(&Method::QueueBind(bind), |it| matches!(it, Method::QueueBindOk(_)).then_some(()))?;
            }
        }
        Ok(())
    }

    /// How many messages are ready in all queues.
    pub(super) fn ready(&self, link: &mut Link) -> Result<u64> {
        let mut ready = 0;
        for queue in &self.queues {
            ready += u64::from(self.declare_queue(link, queue, true)?);
        }
        Ok(ready)
    }

    /// Deletes all, whatever is in it.
    pub(super) fn delete(&self, link: &mut Link) -> Result<()> {
        for queue in &self.queues {
            let delete = queue::Delete { queue, if_unused: false, if_empty: false, nowait: false };
            link.call(&Method::QueueDelete(delete), |it| {
                matches!(it, Method::QueueDeleteOk(_)).then_some(())
            })?;
        }
        if let Some(exchange) = &self.fanout {
            let delete = exchange::Delete { exchange, if_unused: false, nowait: false };
            link.call(&Method::ExchangeDelete(delete), |it| {
                matches!(it, Method::ExchangeDeleteOk(_)).then_some(())
            })?;
        }
        Ok(())
    }

    fn declare_queue(&self, link: &mut Link, queue: &str, passive: bool) -> Result<u32> {
        let stream = TableBuilder::new().with("x-queue-type", "stream");
        let declare = queue::Declare {
            queue,
            passive,
            durable: self.durable,
            exclusive: false,
            auto_delete: false,
            nowait: false,
            arguments: if self.streams { stream.as_table() } else { Table::EMPTY },
        };
        link.call(&Method::QueueDeclare(declare), |it| match it {
            Method::QueueDeclareOk(ok) => Some(ok.message_count),
            _ => None,
        })
    }
}

/// Limits what a consumer may have unacknowledged; each consumer of the channel has the limit of its own.
pub(super) fn set_prefetch(link: &mut Link, prefetch: u16) -> Result<()> {
    let qos = basic::Qos { prefetch_size: 0, prefetch_count: prefetch, global: false };
    link.call(&Method::BasicQos(qos), |it| matches!(it, Method::BasicQosOk(_)).then_some(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(queues: u32, workers: u32) -> Vec<Vec<usize>> {
        let topology = Topology::new("t", queues, false, false);
        (0..workers).map(|worker| topology.served_by(worker, workers)).collect()
    }

    #[test]
    fn queues_are_shared_out() {
        assert_eq!(served(4, 2), [vec![0, 2], vec![1, 3]]);
        assert_eq!(served(2, 3), [vec![0], vec![1], vec![0]]);
        assert_eq!(served(1, 1), [vec![0]]);
    }

    #[test]
    fn addresses_of_queues_and_of_a_fanout() {
        let plain = Topology::new("t", 2, false, false);
        assert_eq!(plain.addresses(0, 1), [("", "t-0000"), ("", "t-0001")]);
        assert_eq!(Topology::new("t", 2, true, false).addresses(0, 1), [("t", "")]);
    }
}
