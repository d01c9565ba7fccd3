//! A connection's ties to shards and the meta task, undone when it ends, however it ends.

use broker::id::ConnectionId;
use broker::meta::Change;
use broker::shard::Command;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::session::Post;
use crate::shard::{Mail, Mailbox};
use crate::{meta, shard};

/// The shards hear `Disconnect` when this is dropped: what the connection holds goes back to its queues.
pub(super) struct Links {
    id: ConnectionId,
    shards: Vec<shard::Handle>,
    meta: meta::Handle,
    mailbox: Mailbox,
    /// Shards that know this connection.
    known: Vec<bool>,
    /// It may own exclusive queues.
    has_changed_topology: bool,
}

impl Links {
    pub(super) fn new(
        id: ConnectionId,
        shards: Vec<shard::Handle>,
        meta: meta::Handle,
    ) -> (Links, UnboundedReceiver<Mail>) {
        let (mailbox, mail) = unbounded_channel();
        let known = Vec::new();
        (Links { id, shards, meta, mailbox, known, has_changed_topology: false }, mail)
    }

    /// Sends a post if its shard has room for its messages; gives it back otherwise.
    pub(super) fn try_send(&mut self, post: Post) -> Result<(), Post> {
        if post.bytes == 0 {
            let id = self.id;
            self.introduce(post.shard).command(id, post.command);
            return Ok(());
        }
        let Some(room) = self.shards[post.shard].try_reserve(post.bytes) else {
            return Err(post);
        };
        self.send(post, room);
        Ok(())
    }

    /// Sends a post for which there is room.
    pub(super) fn send(&mut self, post: Post, room: OwnedSemaphorePermit) {
        let id = self.id;
        self.introduce(post.shard).publish(id, post.command, room);
    }

    /// The shard with this number.
    pub(super) fn shard(&self, number: usize) -> &shard::Handle {
        &self.shards[number]
    }

    /// Asks for a change of the topology; the answer comes by mail.
    pub(super) fn change(&mut self, token: u64, change: Change) {
        self.has_changed_topology = true;
        let mailbox = self.mailbox.clone();
        self.meta.change(change, move |result| {
            drop(mailbox.send(Mail::Meta(token, result)));
        });
    }

    /// Where mail for this connection goes.
    pub(super) fn mailbox(&self) -> Mailbox {
        self.mailbox.clone()
    }

    fn introduce(&mut self, shard: usize) -> &shard::Handle {
        if self.known.is_empty() {
            self.known.resize(self.shards.len(), false);
        }
        if !self.known[shard] {
            self.known[shard] = true;
            self.shards[shard].connect(self.id, self.mailbox.clone());
        }
        &self.shards[shard]
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for (shard, _) in self.shards.iter().zip(&self.known).filter(|(_, known)| **known) {
            shard.command(self.id, Command::Disconnect);
        }
        if self.has_changed_topology {
            self.meta.end_connection(self.id);
        }
    }
}
