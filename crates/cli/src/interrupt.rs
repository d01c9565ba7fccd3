//! Ctrl-C and SIGTERM, as something to wait for beside a socket.

use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a shell sees of a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Becomes readable with the first signal. The second ends the process, should it be stuck.
pub(crate) struct Interrupt {
    pipe: PipeReader,
}

impl Interrupt {
    /// From now on signals end nothing by themselves.
    pub(crate) fn catch() -> Result<Interrupt> {
        let runtime =
            Builder::new_current_thread().enable_io().build().context("cannot watch for signals")?;
        let signals = {
            let _inside = runtime.enter();
            [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?]
        };
        let (pipe, told) = pipe().context("cannot watch for signals")?;
        let watch = move || watch(&runtime, signals, told);
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(watch)
            .context("cannot watch for signals")?;
        Ok(Interrupt { pipe })
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

fn watch(runtime: &Runtime, [mut interrupt, mut terminate]: [Signal; 2], mut told: PipeWriter) {
    runtime.block_on(async {
        for count in 1.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            // Whoever should hear it may be gone, and then there is nothing left to end.
            let _ = told.write_all(b".");
            if count == 2 {
                std::process::exit(INTERRUPTED);
            }
        }
    });
}
