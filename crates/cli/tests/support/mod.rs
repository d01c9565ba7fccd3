//! A broker as its users run it: the real binary, in a process of its own, at a port that it picks.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// How long a broker may take to stop.
const STOP_MAX: Duration = Duration::from_secs(10);

/// The binary, untouched by variables of whoever runs the tests.
pub(crate) fn leveret(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LEVERET_") {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    command
}

/// Sends a signal to a process that has not been waited for.
pub(crate) fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("the process is there until it was waited for");
}

/// A running broker; it is killed when this is dropped.
pub(crate) struct Broker {
    child: Child,
    address: SocketAddr,
    /// Kept open, so that the broker can write to it.
    _stdout: BufReader<ChildStdout>,
}

impl Broker {
    /// Starts a broker on a data directory, with more arguments for `serve`, and waits until it listens. It logs warnings to
    /// the standard error of the test.
    pub(crate) fn start(data_dir: &Path, arguments: &[&str]) -> Broker {
        Broker::start_logging(data_dir, arguments, "warn", Stdio::inherit())
    }

    /// The same with another log.
    pub(crate) fn start_logging(data_dir: &Path, arguments: &[&str], level: &str, log: Stdio) -> Broker {
        let mut child = leveret(&["serve", "--amqp", "127.0.0.1:0", "--log", level])
            .stderr(log)
            .args(arguments)
            .arg("--data-dir")
            .arg(data_dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary was just built");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("leveret: listening for AMQP on ");
        let Some(address) = address.and_then(|address| address.parse().ok()) else {
            child.kill().unwrap();
            panic!("the broker says {line:?} instead of where it listens: {:?}", child.wait());
        };
        Broker { child, address, _stdout: stdout }
    }

    /// Where AMQP clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same for the guest.
    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@{}", self.address)
    }

    /// Has it read its definitions again.
    pub(crate) fn hang_up(&self) {
        send(&self.child, Signal::HUP);
    }

    /// Bytes of the broker's memory that are in RAM, the binary's own pages among them.
    pub(crate) fn memory(&self) -> u64 {
        self.memory_of("VmRSS:")
    }

    /// The most there ever was of it.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.memory_of("VmHWM:")
    }

    fn memory_of(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let value = status.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel tells it");
        let kilobytes: u64 = value.trim().trim_end_matches(" kB").parse().unwrap();
        kilobytes << 10
    }

    /// kill -9, and waits until the process is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// When that takes longer than ten seconds.
    pub(crate) fn terminate(self) -> ExitStatus {
        self.stop_by(Signal::TERM)
    }

    /// As [`Broker::terminate`], with another signal.
    pub(crate) fn stop_by(mut self, signal: Signal) -> ExitStatus {
        send(&self.child, signal);
        let pid = Pid::from_child(&self.child);
        let (ended, end) = channel();
        std::thread::scope(|scope| {
            scope.spawn(|| ended.send(self.child.wait().unwrap()));
            end.recv_timeout(STOP_MAX).unwrap_or_else(|_| {
                kill_process(pid, Signal::KILL).unwrap();
                panic!("the broker did not stop within {STOP_MAX:?}");
            })
        })
    }

    /// The binary as a client of this broker, all its streams piped.
    pub(crate) fn client(&self, arguments: &[&str]) -> Command {
        let mut command = leveret(arguments);
        command.env("LEVERET_URL", self.url());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a client to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_with_input(arguments, b"")
    }

    /// Runs a client with this standard input.
    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Outcome {
        let mut child = self.client(arguments).spawn().expect("the binary was just built");
        let mut stdin = child.stdin.take().expect("it is piped");
        std::thread::scope(|scope| {
            // Who does not read its input may be gone by now.
            scope.spawn(move || drop(stdin.write_all(input)));
            child.wait_with_output().unwrap().into()
        })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a process ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// `None`: by a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Standard output of a process that ended well and had nothing to complain about.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!((self.code, &*self.stderr), (Some(0), ""));
        String::from_utf8(self.stdout).unwrap()
    }

    /// Standard error of a process that failed.
    #[track_caller]
    pub(crate) fn failed(self) -> String {
        assert_eq!(self.code, Some(1), "{self:?}");
        self.stderr
    }

    /// Standard error of a process that was misused.
    #[track_caller]
    pub(crate) fn misused(self) -> String {
        assert_eq!(self.code, Some(2), "{self:?}");
        self.stderr
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Outcome {
        let stderr = String::from_utf8(output.stderr).unwrap();
        Outcome { code: output.status.code(), stdout: output.stdout, stderr }
    }
}
