//! Messages that come back: how often, when they may go out again, and who holds them for too long.

use std::collections::{BTreeMap, BTreeSet};

use super::{Queue, Run, grouped};
use crate::record::{Span, tidy};
use crate::sequence::Stretch;
use crate::topology::Return;

impl Queue {
    /// Messages come back: at once, later, or never when they came back too often; then they are returned.
    pub(super) fn put_back_counted(
        &mut self,
        first: u64,
        mut run: Run,
        how: Return,
        now: u64,
    ) -> Option<(u64, Run)> {
        let settings = &self.options.settings;
        if settings.counts_returns() {
            run.returns = run.returns.saturating_add(1);
            if run.stored.is_some()
                && let Some(extras) = &mut self.extras
            {
                extras.returned.push((run.returns, Span { first, count: run.count() }));
            }
        }
        if settings.delivery_limit.is_some_and(|limit| u64::from(run.returns) > limit) {
            grouped::release(&mut self.extras, first, &run);
            return Some((first, run));
        }
        match settings.delayed_retry.and_then(|retry| retry.delay_of(how, run.returns, first)) {
            Some(delay) => {
                let extras = self.extras.get_or_insert_default();
                extras.delayed.insert((now.saturating_add(delay), first), run);
            }
            None => {
                self.count_ready(&run);
                self.enqueue(first, run);
            }
        }
        None
    }

    /// What the log has to know of messages that were given back since the last call.
    pub(crate) fn take_returned(&mut self) -> Vec<(u16, Vec<Span>)> {
        let Some(extras) = self.extras.as_deref_mut() else { return Vec::new() };
        by_returns(extras.returned.drain(..))
    }

    /// What the log has to know of all messages in memory that were given back.
    pub(crate) fn returned(&self) -> Vec<(u16, Vec<Span>)> {
        let returned = self.runs().filter(|(_, run)| run.returns > 0 && run.stored.is_some());
        let in_memory = returned.map(|(first, run)| (run.returns, Span { first, count: run.count() }));
        let on_disk = self.extras.iter().flat_map(|extras| &extras.returned_on_disk);
        by_returns(in_memory.chain(on_disk.map(|(number, returns)| (*returns, Span::one(*number)))))
    }

    /// What a channel holds it has held since now.
    pub(crate) fn extend(&mut self, connection: usize, channel: u16, now: u64) {
        for (_, held) in self.unacked.iter_mut() {
            if (held.holder.connection, held.holder.channel) == (connection, channel) {
                held.holder.since = now;
            }
        }
    }

    /// Consumers that have held a message for longer than they may: connection, consumer's number, and the limit.
    pub(crate) fn late_consumers(&self, now: u64) -> BTreeSet<(usize, u32, u64)> {
        let holders = self.unacked.iter().map(|(_, held)| held.holder);
        let late = holders.filter_map(|holder| {
            let (place, number) = holder.consumer?;
            let timeout = self.consumers.find_at(place, holder.connection, number)?.subscription.timeout_ms?;
            (holder.since.saturating_add(timeout) <= now).then_some((holder.connection, number, timeout))
        });
        late.collect()
    }

    /// Recovery: messages were given back so often.
    pub(crate) fn recover_returns(&mut self, span: Span, returns: u16) {
        self.saw_sequence(span.end());
        let mut found = self.take_grouped(span);
        for runs in Queue::levels_mut(&mut self.extras).chain([&mut self.front, &mut self.behind]) {
            runs.remove(span.first, span.end() - 1, |first, run| found.push((first, run)));
        }
        found.into_iter().rev().for_each(|(first, run)| self.enqueue(first, Run { returns, ..run }));
        let Queue { extras, backlog, .. } = self;
        let on_disk = (span.first..span.end()).filter(|number| backlog.holds(*number));
        extras.get_or_insert_default().returned_on_disk.extend(on_disk.map(|number| (number, returns)));
    }

    /// Messages come from the disk: those that came back before know it again.
    pub(super) fn with_returns(&mut self, first: u64, mut run: Run) -> Vec<(u64, Run)> {
        let returned = self.extras.as_deref_mut().map(|extras| &mut extras.returned_on_disk);
        let Some(returned) = returned.filter(|returned| !returned.is_empty()) else {
            return vec![(first, run)];
        };
        let mut parts = Vec::new();
        for number in first..first + u64::from(run.count()) {
            let part = if run.count() > 1 { run.split_to(1) } else { run.clone() };
            let returns = returned.remove(&number).unwrap_or(part.returns);
            parts.push((number, Run { returns, ..part }));
        }
        parts
    }
}

fn by_returns(returned: impl Iterator<Item = (u16, Span)>) -> Vec<(u16, Vec<Span>)> {
    let mut spans: BTreeMap<u16, Vec<Span>> = BTreeMap::new();
    returned.for_each(|(returns, span)| spans.entry(returns).or_default().push(span));
    spans.values_mut().for_each(tidy);
    spans.into_iter().collect()
}
