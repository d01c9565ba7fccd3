//! A broker in a process of its own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Killed when it is dropped.
pub(crate) struct Broker {
    child: Child,
    /// Where clients connect.
    pub(crate) address: String,
}

impl Broker {
    /// Starts a broker on any free port and waits until it listens. Its files are small, so that they roll and are
    /// forgotten.
    pub(crate) fn start(data_dir: &Path) -> Broker {
        let mut child = Command::new(env!("CARGO_BIN_EXE_leveret"))
            .args([
                "serve",
                "--amqp",
                "127.0.0.1:0",
                "--journal-file-size",
                "1MiB",
                "--log",
                "error",
                "--data-dir",
            ])
            .arg(data_dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary was built with this test");
        let stdout = child.stdout.take().expect("it is piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a broker says where it listens");
        let address = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        assert!(address.starts_with("127.0.0.1:"), "expected where it listens, found {line:?}");
        Broker { child, address }
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it was running");
        self.child.wait().expect("it was killed");
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        let kill = format!("kill -TERM {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &kill]).status().expect("there is a shell");
        assert!(sent.success(), "it was running");
    }

    /// Waits for the broker to end by itself; how it did and how long that took.
    pub(crate) fn wait(mut self) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        let status = self.child.wait().expect("it is a child");
        (status, begun.elapsed())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
