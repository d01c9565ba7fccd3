//! The log: what is written where, and how often.
//!
//! What clients do can be logged for each of them, and there is no end to what they can do. So of the lines that come from
//! one place in the source only [`LINES_MAX`] are written in a second; the next one that is written is followed by how many
//! were not. Errors and what was asked for with debug or trace are written always.

use std::collections::HashMap;
use std::fmt;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, format};
use tracing_subscriber::registry::LookupSpan;

/// Lines of one place in a second.
const LINES_MAX: u32 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Logs to standard error from now on.
pub(crate) fn start(filter: &str, format: Format) -> Result<()> {
    let filter =
        EnvFilter::try_new(filter).with_context(|| format!("the log filter '{filter}' makes no sense"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Text => {
            log.with_ansi(std::io::stderr().is_terminal())
                .event_format(Sparing::new(format::format()))
                .init();
        }
        Format::Json => log.json().event_format(Sparing::new(format::format().json())).init(),
    }
    Ok(())
}

/// Formats as `inner` does, unless there was enough of it. What is not formatted is not written.
struct Sparing<F> {
    inner: F,
    places: Mutex<HashMap<Identifier, Place>>,
}

impl<F, S, N> FormatEvent<S, N> for Sparing<F>
where
    F: FormatEvent<S, N>,
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(left_out) = self.admits(event.metadata(), Instant::now()) else { return Ok(()) };
        if left_out > 0 {
            warn!(left_out, "lines like the next one were left out");
        }
        self.inner.format_event(context, writer, event)
    }
}

impl<F> Sparing<F> {
    fn new(inner: F) -> Sparing<F> {
        Sparing { inner, places: Mutex::default() }
    }

    /// How many lines before this one were left out; `None`: this one is, too.
    fn admits(&self, metadata: &Metadata<'_>, now: Instant) -> Option<u64> {
        if !matches!(*metadata.level(), Level::WARN | Level::INFO) {
            return Some(0);
        }
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = Place { since: now, lines: 0, left_out: 0 };
        places.entry(metadata.callsite()).or_insert(place).admits(now)
    }
}

/// Lines of one place in the source.
#[derive(Debug)]
struct Place {
    /// When the second began in which they are counted.
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Place {
    fn admits(&mut self, now: Instant) -> Option<u64> {
        if now - self.since >= Duration::from_secs(1) {
            (self.since, self.lines) = (now, 0);
        }
        if self.lines >= LINES_MAX {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_lines_a_second_and_then_how_many_were_left_out() {
        let start = Instant::now();
        let mut place = Place { since: start, lines: 0, left_out: 0 };
        let mut admitted = |now| (0..1000).filter_map(|_| place.admits(now)).collect::<Vec<_>>();
        assert_eq!(admitted(start), [0; 100]);
        assert!(admitted(start + Duration::from_millis(999)).is_empty());
        let next = admitted(start + Duration::from_secs(1));
        assert_eq!((next.len(), next[0], next[1]), (100, 1900, 0));
    }
}
