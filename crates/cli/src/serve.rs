//! `leveret serve`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use server::Server;
use server::config::Config;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Written;
use crate::{allocator, log};

/// Exit code for a configuration that makes no sense.
const MISUSED: u8 = 2;

/// The configuration file that is read when it is there.
const CONFIG_FILE: &str = "leveret.toml";

/// Run the broker.
///
/// Options are taken from the command line, then from the environment (LEVERET_DATA_DIR for --data-dir), then from the
/// configuration file, where --data-dir is the key data-dir.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  leveret serve --data-dir /var/lib/leveret --amqp 127.0.0.1:5672")]
pub(crate) struct Serve {
    /// Configuration file [default: leveret.toml, if there is one]
    #[arg(long, env = "LEVERET_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Say whether the configuration makes sense, and stop
    #[arg(long)]
    check_config: bool,

    /// What to log: error, warn, info, debug, trace, also per part, as in info,server::session=debug
    #[arg(long, env = "LEVERET_LOG", value_name = "FILTER", default_value = "info")]
    log: String,

    /// How to log, to standard error
    #[arg(long, env = "LEVERET_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: log::Format,

    #[command(flatten)]
    written: Written,
}

impl Serve {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let config = match self.configure() {
            Ok(config) => config,
            Err(error) => {
                eprintln!("leveret: {error:#}");
                return Ok(ExitCode::from(MISUSED));
            }
        };
        if self.check_config {
            println!("the configuration makes sense");
            return Ok(ExitCode::SUCCESS);
        }
        allocator::keep_buffers();
        allocator::give_back_at_rest()?;
        raise_descriptor_limit();
        keep_files_private();
        log::start(&self.log, self.log_format)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("cannot start threads")?;
        runtime.block_on(serve(config))?;
        Ok(ExitCode::SUCCESS)
    }

    fn configure(&self) -> Result<Config> {
        let file = match &self.config {
            Some(path) => Written::read(path)?,
            None if Path::new(CONFIG_FILE).exists() => Written::read(Path::new(CONFIG_FILE))?,
            None => Written::default(),
        };
        self.written.clone().or(file).mean()
    }
}

/// A connection is a descriptor: takes as many as this user may have.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // What cannot be raised stays as it is; accepting says when it is too low.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// Whatever is created from now on is for this user alone.
fn keep_files_private() {
    umask(Mode::from_raw_mode(0o077));
}

async fn serve(config: Config) -> Result<()> {
    // Before anything is started, so that no signal is missed.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let server = Server::start(config).await?;
    // Others parse this line.
    writeln!(std::io::stdout(), "leveret: listening for AMQP on {}", server.address())?;
    if let Some(address) = server.tls_address() {
        writeln!(std::io::stdout(), "leveret: listening for AMQPS on {address}")?;
    }
    let reload = server.reload();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reload.reload();
        }
    });
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok(server.run(stop).await?)
}
