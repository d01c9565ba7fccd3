//! What every load generator here measures, whatever protocol it speaks: threads that count what they do on a
//! [`Board`](board::Board), a clock that all of them share, histograms of latencies, the server's processor time, and the report.
//!
//! `cargo xtask nats-load` uses these files too, so that its figures are made by the very same code.

pub(crate) mod board;
pub(crate) mod latency;
pub(crate) mod options;
pub(crate) mod process_time;
mod progress;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod schedule;
