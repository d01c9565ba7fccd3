//! A connection while it is set up.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::scan::{Inbox, Said};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The subscription of answers to our own requests.
const ANSWERS: &str = "answers";

/// An open connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: TcpStream,
    /// May already hold deliveries.
    pub(super) inbox: Inbox,
}

impl Link {
    /// Connects and says hello.
    pub(super) fn open(server: &str) -> Result<Link> {
        let stream = TcpStream::connect(server).with_context(|| format!("cannot connect to {server}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut link = Link { stream, inbox: Inbox::new() };
        link.say(
            "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}\r\n",
        )?;
        link.flush()?;
        Ok(link)
    }

    /// Subscribes under a number. Deliveries are found in the inbox or on the socket.
    pub(super) fn subscribe(&mut self, subject: &str, number: u32) -> Result<()> {
        self.say(&format!("SUB {subject} {number}\r\n"))
    }

    /// Asks JetStream for something and waits for its answer.
    pub(super) fn request(&mut self, subject: &str, request: &Value) -> Result<()> {
        let inbox =
            format!("_INBOX.load.{}.{ANSWERS}.{}", std::process::id(), self.stream.local_addr()?.port());
        let body = if request.is_null() { String::new() } else { request.to_string() };
        self.say(&format!("SUB {inbox} {ANSWERS}\r\nPUB {subject} {inbox} {}\r\n{body}\r\n", body.len()))?;
        let outcome = self.answer(subject);
        self.say(&format!("UNSUB {ANSWERS}\r\n"))?;
        outcome
    }

    fn answer(&mut self, subject: &str) -> Result<()> {
        loop {
            while let Some(said) = self.inbox.next()? {
                let Said::Message { payload, .. } = said else { continue };
                let answer: Value = serde_json::from_slice(payload).unwrap_or_default();
                match answer.get("error") {
                    Some(error) => bail!("{subject} failed: {error}"),
                    None if answer.is_object() => return Ok(()),
                    None => bail!("{subject} got no answer: is JetStream on?"),
                }
            }
            self.inbox.read(&self.stream)?;
        }
    }

    /// Waits until the server has handled what was said.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.say("PING\r\n")?;
        loop {
            while let Some(said) = self.inbox.next()? {
                if said == Said::Pong {
                    return Ok(());
                }
            }
            self.inbox.read(&self.stream)?;
        }
    }

    fn say(&mut self, text: &str) -> Result<()> {
        self.stream.write_all(text.as_bytes()).context("the connection broke")
    }
}
