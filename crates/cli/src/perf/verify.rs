//! `--verify`: every body as it was sent, first deliveries in order, nothing twice, nothing missing.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::stamp::{STAMP_SIZE, Stamp};
use super::topology::Topology;

/// What came from one producer through one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    messages: u64,
    /// Of their numbers. With the count it tells whether it was each one once.
    sum: u128,
    /// Highest number so far.
    last: Option<u64>,
}

/// By number of the queue and of the producer.
type Tallies = BTreeMap<(usize, u16), Tally>;

/// Looks at what one consumer gets: [`begin`](Verifier::begin), [`piece`](Verifier::piece) for each piece of the
/// body, [`end`](Verifier::end); and so on.
#[derive(Debug)]
pub(super) struct Verifier {
    filling: Vec<u8>,
    tallies: Tallies,
    queue: usize,
    body: Vec<u8>,
}

impl Verifier {
    /// Expects bodies that are like `filling` behind their stamp.
    pub(super) fn new(filling: Vec<u8>) -> Verifier {
        Verifier { filling, tallies: Tallies::new(), queue: 0, body: Vec::new() }
    }

    /// A message came from the queue whose number is the consumer tag.
    pub(super) fn begin(&mut self, consumer_tag: &[u8]) -> Result<()> {
        let tag = str::from_utf8(consumer_tag).ok().and_then(|tag| tag.parse().ok());
        self.queue = tag.with_context(|| format!("unknown consumer tag {consumer_tag:?}"))?;
        self.body.clear();
        Ok(())
    }

    /// A piece of its body.
    pub(super) fn piece(&mut self, piece: &[u8]) {
        self.body.extend_from_slice(piece);
    }

    /// That was the message.
    pub(super) fn end(&mut self) -> Result<()> {
        let (queue, size) = (self.queue, self.body.len());
        ensure!(
            size == self.filling.len(),
            "a body from queue {queue} has {size} bytes, expected {}",
            self.filling.len()
        );
        let Stamp { producer, number, .. } = Stamp::parse(&self.body).context("a body has no stamp")?;
        let message = || format!("message {number} of producer {producer} from queue {queue}");
        let is_as_sent = self.body.get(STAMP_SIZE..) == self.filling.get(STAMP_SIZE..);
        ensure!(is_as_sent, "{} has another body than was sent", message());
        let tally = self.tallies.entry((queue, producer)).or_default();
        ensure!(tally.last < Some(number), "{} came after number {:?}", message(), tally.last);
        tally.messages += 1;
        tally.sum += u128::from(number);
        tally.last = Some(number);
        Ok(())
    }
}

/// Compares what all consumers got with what each producer, in order, has published.
pub(super) fn check_all(topology: &Topology, published: &[u64], verifiers: &[Verifier]) -> Result<()> {
    let mut came = Tallies::new();
    for (key, tally) in verifiers.iter().flat_map(|verifier| &verifier.tallies) {
        let all = came.entry(*key).or_default();
        all.messages += tally.messages;
        all.sum += tally.sum;
    }
    for (key, expected) in expected(topology, published) {
        let (queue, producer) = key;
        let found = came.remove(&key).unwrap_or_default();
        ensure!(
            found == expected,
            "queue {queue} brought {} messages of producer {producer} (sum of numbers {}), expected {} ({})",
            found.messages,
            found.sum,
            expected.messages,
            expected.sum
        );
    }
    ensure!(came.is_empty(), "messages came that nobody sent: {came:?}");
    Ok(())
}

fn expected(topology: &Topology, published: &[u64]) -> Tallies {
    let producers = u32::try_from(published.len()).expect("limited by the options");
    let mut tallies = Tallies::new();
    for (producer, published) in (0..).zip(published) {
        // Each queue of a fanout gets every message, else the producer's queues take turns.
        let (queues, turns) = match topology.fanout {
            Some(_) => ((0..topology.queues.len()).collect(), 1),
            None => {
                let queues = topology.served_by(u32::from(producer), producers);
                let turns = queues.len();
                (queues, turns)
            }
        };
        for (place, queue) in queues.into_iter().enumerate() {
            let tally = every(turns, place % turns, *published);
            if tally.messages > 0 {
                tallies.insert((queue, producer), tally);
            }
        }
    }
    tallies
}

/// Every so many-th of `published` messages, the first one of number `first`.
fn every(turns: usize, first: usize, published: u64) -> Tally {
    let [turns, first] = [turns, first].map(|number| u64::try_from(number).unwrap_or(u64::MAX));
    let messages = published.saturating_sub(first).div_ceil(turns);
    let [m, f, t] = [messages, first, turns].map(u128::from);
    Tally { messages, sum: m * f + t * (m * m.saturating_sub(1) / 2), last: None }
}

#[cfg(test)]
mod tests {
    use super::super::stamp::filling;
    use super::*;

    fn give(verifier: &mut Verifier, queue: &str, number: u64) -> String {
        let mut body = filling(40);
        let stamp = Stamp { due_ns: 1, producer: 0, number };
        body.get_mut(..STAMP_SIZE).unwrap().copy_from_slice(&stamp.to_bytes());
        give_body(verifier, queue, &body)
    }

    fn give_body(verifier: &mut Verifier, queue: &str, body: &[u8]) -> String {
        verifier.begin(queue.as_bytes()).unwrap();
        let (head, tail) = body.split_at(body.len() / 2);
        verifier.piece(head);
        verifier.piece(tail);
        verifier.end().err().map(|error| error.to_string()).unwrap_or_default()
    }

    fn two_queues() -> Topology {
        Topology::new("t", 2, false, false)
    }

    #[test]
    fn all_in_order() {
        let mut verifier = Verifier::new(filling(40));
        for number in 0..5 {
            assert_eq!(give(&mut verifier, if number % 2 == 0 { "0" } else { "1" }, number), "");
        }
        check_all(&two_queues(), &[5], &[verifier]).unwrap();
    }

    #[test]
    fn out_of_order_or_twice() {
        let mut verifier = Verifier::new(filling(40));
        assert_eq!(give(&mut verifier, "0", 2), "");
        let said = "message 2 of producer 0 from queue 0 came after number Some(2)";
        assert_eq!(give(&mut verifier, "0", 2), said);
        assert!(give(&mut verifier, "0", 1).contains("came after"));
    }

    #[test]
    fn one_lost() {
        let mut verifier = Verifier::new(filling(40));
        give(&mut verifier, "0", 0);
        let said = check_all(&two_queues(), &[3], &[verifier]).unwrap_err().to_string();
        assert_eq!(said, "queue 0 brought 1 messages of producer 0 (sum of numbers 0), expected 2 (2)");
    }

    #[test]
    fn one_that_came_to_two_consumers_in_place_of_another() {
        let mut verifiers = [Verifier::new(filling(40)), Verifier::new(filling(40))];
        for verifier in &mut verifiers {
            give(verifier, "0", 1);
        }
        assert!(check_all(&Topology::new("t", 1, false, false), &[2], &verifiers).is_err());
    }

    #[test]
    fn bodies_that_are_not_as_sent() {
        let mut verifier = Verifier::new(filling(40));
        assert!(give_body(&mut verifier, "0", &filling(39)).contains("has 39 bytes, expected 40"));
        let mut body = filling(40);
        *body.last_mut().unwrap() ^= 1;
        assert!(give_body(&mut verifier, "0", &body).contains("another body than was sent"));
    }

    #[test]
    fn fanouts_bring_everything_everywhere() {
        let expected = expected(&Topology::new("t", 2, true, false), &[3, 0]);
        let tally = Tally { messages: 3, sum: 3, last: None };
        assert_eq!(expected, Tallies::from([((0, 0), tally), ((1, 0), tally)]));
    }
}
