//! How much may wait in a queue, and what goes when it is more.

use super::{Queue, Run};
use crate::record::Span;
use crate::topology::{Keeps, Overflow, Settings};

/// Bytes that count where a limit asks for them.
pub(super) fn limited_bytes(settings: &Settings, run: &Run) -> u64 {
    if settings.keeps == Some(Keeps::History) {
        return run.messages.size() as u64;
    }
    run.messages.iter().map(|message| message.body().len() as u64).sum()
}

impl Queue {
    /// Whether messages are refused now.
    pub(crate) fn refuses(&self) -> bool {
        let settings = &self.options.settings;
        settings.overflow != Overflow::DropHead
            && (settings.max_length.is_some_and(|max| self.ready_len() as u64 >= max)
                || settings.max_length_bytes.is_some_and(|max| self.ready_bytes() >= max))
    }

    fn ready_bytes(&self) -> u64 {
        self.extras.as_ref().map_or(0, |extras| extras.ready_bytes)
    }

    /// Messages wait from now on, or again.
    pub(crate) fn count_ready(&mut self, run: &Run) {
        if self.options.settings.max_length_bytes.is_some()
            && let Some(extras) = &mut self.extras
        {
            extras.ready_bytes += limited_bytes(&self.options.settings, run);
        }
    }

    /// Messages do not wait any more.
    pub(super) fn count_taken(&mut self, run: &Run) {
        if self.options.settings.max_length_bytes.is_some()
            && let Some(extras) = &mut self.extras
        {
            let bytes = limited_bytes(&self.options.settings, run);
            extras.ready_bytes = extras.ready_bytes.saturating_sub(bytes);
        }
    }

    /// How many messages are too many: those at the head go.
    pub(crate) fn excess(&self) -> u64 {
        let settings = &self.options.settings;
        if settings.overflow != Overflow::DropHead {
            return 0;
        }
        let by_length = settings.max_length.map_or(0, |max| (self.ready_len() as u64).saturating_sub(max));
        let by_bytes = settings.max_length_bytes.is_some_and(|max| self.ready_bytes() > max);
        by_length.max(by_bytes.into())
    }

    /// Takes messages out at the head, at most `count_max`; `None` when the first are on the disk.
    pub(crate) fn take_head(&mut self, count_max: u64) -> Option<(u64, Run)> {
        let bytes_limited = self.options.settings.max_length_bytes.is_some();
        let count_max = if bytes_limited { 1 } else { u32::try_from(count_max).unwrap_or(u32::MAX) };
        let taken = self.pop_oldest(count_max)?;
        self.count_taken(&taken.1);
        Some(taken)
    }

    /// Drops the first messages of the backlog, at most `count_max`: nobody wants to know them.
    pub(crate) fn drop_backlog_head(&mut self, count_max: u64) {
        let mut left = count_max;
        self.others_went();
        while left > 0
            && let Some(first) = self.backlog.first()
        {
            let span = Span { first, count: u32::try_from(left).unwrap_or(u32::MAX) };
            let mut cut = Vec::new();
            self.backlog.cut(span, None, |span, persistent, segment| cut.push((span, persistent, segment)));
            left = cut.iter().fold(left, |left, (span, ..)| left.saturating_sub(span.count.into()));
            self.settle_cut(cut);
        }
        self.rearrange();
    }
}
