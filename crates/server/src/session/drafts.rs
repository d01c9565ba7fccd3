//! Messages that a session encodes while it handles a read, gathered so that those for the same queues lie back to back.

use std::sync::Arc;

use broker::message::{Messages, Parts};
use broker::topology::Duplicates;
use bytes::{Bytes, BytesMut};

use super::outgoing::Route;

/// Runs that grow at the same time: what one client publishes in turn to more queues than this, goes in shorter runs.
const OPEN_MAX: usize = 8;

/// Bytes of a run, unless one message is larger: what is handed out in one piece, and what a message that stays behind
/// can keep in memory.
const RUN_SIZE_MAX: usize = 256 << 10;

/// Places for runs that a session keeps between reads.
const IDLE_MAX: usize = 16;

/// What a queue has to know of a message without looking into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traits {
    pub(super) persistent: bool,
    /// It has its own time to live.
    pub(super) expires: bool,
    /// What is to be done if it came before.
    pub(super) duplicates: Duplicates,
}

/// Messages that take the same route and have the same traits.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) route: Route,
    pub(super) traits: Traits,
    /// Publisher and number, if it is one message that may be refused.
    pub(super) confirm: Option<(u32, u64)>,
    buffer: BytesMut,
    count: u32,
}

/// `add` every message, then `finish`. Messages for one queue stay in order; nothing else may be relied on.
#[derive(Debug, Default)]
pub(super) struct Drafts {
    /// The last `open` of them grow, and no two of these share a queue.
    all: Vec<Draft>,
    open: usize,
    /// The one that grew last.
    last: usize,
    /// Bytes of the first in the last round: most clients publish to one queue at a time.
    size_hint: usize,
}

impl Draft {
    fn fits(&self, route: &Route, traits: Traits) -> bool {
        self.traits == traits && Arc::ptr_eq(&self.route, route)
    }
}

impl Drafts {
    /// Encodes a message.
    pub(super) fn add(&mut self, route: &Route, parts: &Parts<'_>, traits: Traits) {
        if !self.all.get(self.last).is_some_and(|draft| draft.fits(route, traits)) {
            self.last = self.find(route, parts, traits);
        }
        let last = &self.all[self.last];
        if last.count > 0 && last.buffer.len() + parts.encoded_len() > RUN_SIZE_MAX {
            self.open = 0;
            self.last = self.find(route, parts, traits);
        }
        let draft = &mut self.all[self.last];
        parts.encode(&mut draft.buffer);
        draft.count += 1;
    }

    /// Encodes a message that shares nothing: the publisher wants to hear if it alone is refused.
    pub(super) fn add_alone(
        &mut self,
        route: &Route,
        parts: &Parts<'_>,
        traits: Traits,
        confirm: Option<(u32, u64)>,
    ) {
        let mut buffer = BytesMut::with_capacity(parts.encoded_len());
        parts.encode(&mut buffer);
        self.all.push(Draft { route: Arc::clone(route), traits, confirm, buffer, count: 1 });
        // What grows is at the end, and nothing grows any more.
        (self.open, self.last) = (0, self.all.len());
    }

    /// Gives out all that was added.
    pub(super) fn finish(&mut self, mut take: impl FnMut(&Draft, Messages)) {
        self.size_hint = self.all.first().map_or(0, |draft| draft.buffer.len().min(RUN_SIZE_MAX));
        for mut draft in self.all.drain(..) {
            let buffer = std::mem::take(&mut draft.buffer);
            // Messages can stay for long: they keep no room that nobody uses.
            let has_slack = buffer.capacity() > 2 * buffer.len();
            let bytes = if has_slack { Bytes::copy_from_slice(&buffer) } else { buffer.freeze() };
            take(&draft, Messages::encoded(bytes, draft.count));
        }
        self.all.shrink_to(IDLE_MAX);
        (self.open, self.last) = (0, 0);
    }

    /// The open run where a message belongs, opened if there is none.
    fn find(&mut self, route: &Route, parts: &Parts<'_>, traits: Traits) -> usize {
        let first_open = self.all.len() - self.open;
        let fits = |draft: &Draft| draft.fits(route, traits);
        if let Some(at) = self.all[first_open..].iter().position(fits) {
            return first_open + at;
        }
        let overtakes = self.all[first_open..].iter().any(|draft| share_a_queue(&draft.route, route));
        if overtakes || self.open == OPEN_MAX {
            self.open = 0;
        }
        self.open += 1;
        let expected = if self.all.is_empty() { self.size_hint } else { 0 };
        let buffer = BytesMut::with_capacity(expected.max(parts.encoded_len()));
        self.all.push(Draft { route: Arc::clone(route), traits, confirm: None, buffer, count: 0 });
        self.all.len() - 1
    }
}

fn share_a_queue(one: &Route, other: &Route) -> bool {
    one.shards.iter().any(|(shard, queues)| {
        let there = other.shards.iter().filter(|(s, _)| s == shard).flat_map(|(_, queues)| queues.iter());
        there.into_iter().any(|queue| queues.contains(queue))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::outgoing::Path;
    use broker::id::QueueId;
    use expect_test::{Expect, expect};

    const PLAIN: Traits = Traits { persistent: false, expires: false, duplicates: Duplicates::AsQueuesSay };

    fn route(queues: &[u64]) -> Route {
        let queues: Arc<[QueueId]> = queues.iter().map(|queue| QueueId(*queue)).collect();
        Arc::new(Path { shards: Box::new([(0, queues)]), ..Path::default() })
    }

    /// Publishes one message after the other, by the number of its route; `!` makes it persistent.
    fn check(routes: &[&[u64]], published: &str, expected: &Expect) {
        let routes: Vec<Route> = routes.iter().map(|queues| route(queues)).collect();
        let mut drafts = Drafts::default();
        for (number, word) in published.split(' ').enumerate() {
            let route = &routes[word.trim_end_matches('!').parse::<usize>().unwrap()];
            let body = number.to_string();
            let parts = Parts { route: &[0, 0], properties: &[0, 0], body: body.as_bytes() };
            drafts.add(route, &parts, Traits { persistent: word.ends_with('!'), ..PLAIN });
        }
        let mut said = Vec::new();
        drafts.finish(|draft, messages| {
            let bodies: Vec<_> =
                messages.iter().map(|m| String::from_utf8_lossy(m.body()).into_owned()).collect();
            let queues: Vec<_> = draft.route.shards[0].1.iter().map(|queue| queue.0).collect();
            said.push(format!(
                "{queues:?}{}: {}",
                if draft.traits.persistent { "!" } else { "" },
                bodies.join(" ")
            ));
        });
        expected.assert_eq(&said.join("\n"));
    }

    #[test]
    fn messages_for_the_same_queues_lie_together() {
        check(
            &[&[7], &[8]],
            "0 0 1 0 1 1",
            &expect![[r#"
            [7]: 0 1 3
            [8]: 2 4 5"#]],
        );
    }

    #[test]
    fn nothing_overtakes_on_its_way_to_a_queue() {
        check(
            &[&[7], &[7, 8], &[9]],
            "0 2 1 0 2",
            &expect![[r#"
            [7]: 0
            [9]: 1
            [7, 8]: 2
            [7]: 3
            [9]: 4"#]],
        );
        check(
            &[&[7], &[8]],
            "0 0! 0 1 0!",
            &expect![[r#"
            [7]: 0
            [7]!: 1
            [7]: 2
            [8]: 3
            [7]!: 4"#]],
        );
    }

    #[test]
    fn a_run_has_a_limit_and_no_slack() {
        let (mut drafts, body) = (Drafts::default(), vec![7; 100 << 10]);
        let routes = [route(&[1]), route(&[2])];
        let mut round = |sizes: &[(usize, usize)]| {
            for (queue, size) in sizes {
                let parts = Parts { route: &[0, 0], properties: &[0, 0], body: &body[..*size] };
                drafts.add(&routes[*queue], &parts, PLAIN);
            }
            let mut counts = Vec::new();
            drafts.finish(|_, messages| counts.push((messages.count(), messages.size())));
            counts
        };
        let large = round(&[(0, 100 << 10); 5]);
        assert_eq!(large.iter().map(|(count, _)| *count).collect::<Vec<_>>(), [2, 2, 1]);
        assert!(large.iter().all(|(_, size)| *size <= RUN_SIZE_MAX));
        assert_eq!(round(&[(0, 1), (1, 1), (0, 1)]), [(2, 30), (1, 15)]);
        assert!(drafts.size_hint <= 30, "{}", drafts.size_hint);
    }

    #[test]
    fn only_so_many_grow_at_a_time() {
        let routes: Vec<[u64; 1]> = (0..10).map(|queue| [queue]).collect();
        let routes: Vec<&[u64]> = routes.iter().map(|queues| &queues[..]).collect();
        check(
            &routes,
            "0 1 2 3 4 5 6 7 8 9 0 8 9",
            &expect![[r#"
            [0]: 0
            [1]: 1
            [2]: 2
            [3]: 3
            [4]: 4
            [5]: 5
            [6]: 6
            [7]: 7
            [8]: 8 11
            [9]: 9 12
            [0]: 10"#]],
        );
    }
}
