//! The subjects of a run, and the streams and consumers of JetStream.

use anyhow::Result;
use serde_json::{Value, json};

use super::link::Link;

/// Fresh names, all of the same length.
#[derive(Debug)]
pub(super) struct Subjects {
    run: u32,
    count: u32,
}

/// Where the answers to a producer's publishes go.
pub(super) fn inbox(producer: u32) -> String {
    format!("_INBOX.load.{}.{producer}", std::process::id())
}

/// The places that this worker serves, as `leveret perf` shares queues out.
pub(super) fn share(places: u32, worker: u32, workers: u32) -> impl Iterator<Item = u32> {
    let (first, step) = if places <= workers { (worker % places, places) } else { (worker, workers) };
    (first..places).step_by(usize::try_from(step).unwrap_or(1))
}

impl Subjects {
    pub(super) fn new(run: u32, count: u32) -> Subjects {
        Subjects { run, count }
    }

    pub(super) fn name(&self, number: u32) -> String {
        format!("load.{}.{number:04}", self.run)
    }

    fn stream(&self, number: u32) -> String {
        format!("load-{}-{number:04}", self.run)
    }

    /// One stream per subject; messages stay when they are acknowledged, which costs NATS least.
    pub(super) fn create_streams(&self, link: &mut Link) -> Result<()> {
        for number in 0..self.count {
            let name = self.stream(number);
            let config = json!({ "name": name, "subjects": [self.name(number)], "storage": "file", "num_replicas": 1 });
            link.request(&format!("$JS.API.STREAM.CREATE.{name}"), &config)?;
        }
        Ok(())
    }

    pub(super) fn delete_streams(&self, link: &mut Link) -> Result<()> {
        for number in 0..self.count {
            let subject = format!("$JS.API.STREAM.DELETE.{}", self.stream(number));
            link.request(&subject, &Value::Null)?;
        }
        Ok(())
    }

    /// Has a subject's stream pushed to this link. With `prefetch`, so many deliveries may await their ack, and
    /// an ack is for all before it.
    pub(super) fn consume(
        &self,
        link: &mut Link,
        number: u32,
        place: u32,
        prefetch: Option<u16>,
    ) -> Result<()> {
        let (stream, name) = (self.stream(number), format!("consumer-{place:04}"));
        let deliver = format!("deliver.{}.{place:04}", self.run);
        link.subscribe(&deliver, place)?;
        let mut config = json!({
            "name": name,
            "deliver_subject": deliver,
            "deliver_policy": "all",
            "ack_policy": "none",
            "mem_storage": true,
            "inactive_threshold": 600_000_000_000_u64,
        });
        if let Some(prefetch) = prefetch {
            let pending = if prefetch == 0 { -1 } else { i64::from(prefetch) };
            config["ack_policy"] = "all".into();
            config["max_ack_pending"] = pending.into();
        }
        let request = json!({ "stream_name": stream, "config": config });
        link.request(&format!("$JS.API.CONSUMER.CREATE.{stream}.{name}"), &request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_shared_out() {
        let shares = |places, workers| {
            (0..workers).map(|it| share(places, it, workers).collect()).collect::<Vec<Vec<u32>>>()
        };
        assert_eq!(shares(4, 2), [[0, 2], [1, 3]]);
        assert_eq!(shares(2, 3), [[0], [1], [0]]);
    }
}
