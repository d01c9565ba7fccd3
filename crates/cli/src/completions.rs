//! `leveret completions`.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Print completions for a shell.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  leveret completions bash > /etc/bash_completion.d/leveret")]
pub(crate) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        clap_complete::generate(
            self.shell,
            &mut crate::Arguments::command(),
            "leveret",
            &mut std::io::stdout(),
        );
        Ok(ExitCode::SUCCESS)
    }
}
