//! What a person at a terminal sees while a run goes on. Elsewhere nothing is shown.

use std::cell::Cell;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use super::board::Totals;
use super::options::Extent;

/// A bar on standard error with the rates of the last moments.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    extent: Extent,
    started: Instant,
    last: Cell<(Instant, Totals)>,
}

impl Progress {
    /// Time between two looks at the rates.
    pub(crate) const PERIOD: Duration = Duration::from_millis(200);

    pub(crate) fn new(extent: Extent) -> Progress {
        let length = match extent {
            Extent::Time { warmup, measured } => (warmup + measured).as_millis(),
            Extent::Count { published, consumed } => published.max(consumed).into(),
        };
        let bar = ProgressBar::new(u64::try_from(length).unwrap_or(u64::MAX));
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {percent:>3}%  {msg}") {
            bar.set_style(style);
        }
        let now = Instant::now();
        Progress { bar, extent, started: now, last: Cell::new((now, Totals::default())) }
    }

    /// Shows how far the run is, if there is something new to see.
    pub(crate) fn show(&self, totals: Totals) {
        let (at, before) = self.last.get();
        let elapsed = at.elapsed();
        if elapsed < Self::PERIOD / 2 || self.bar.is_hidden() {
            return;
        }
        let position = match self.extent {
            Extent::Time { .. } => u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            Extent::Count { published, consumed } if consumed < published => totals.published,
            Extent::Count { .. } => totals.consumed,
        };
        let new = totals.since(before);
        let rate = |messages: u64| HumanCount(per_second(messages, elapsed));
        self.bar.set_position(position);
        self.bar.set_message(format!(
            "published {}/s, consumed {}/s",
            rate(new.published),
            rate(new.consumed)
        ));
        self.last.set((Instant::now(), totals));
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn per_second(messages: u64, elapsed: Duration) -> u64 {
    let us = elapsed.as_micros().max(1);
    u64::try_from(u128::from(messages) * 1_000_000 / us).unwrap_or(u64::MAX)
}
