//! How much users and virtual hosts may have. Codes and texts are RabbitMQ 3.10's.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, precondition};

/// Queues of a virtual host that has no limit of its own. Each costs memory for as long as it exists.
const QUEUES_MAX: u64 = 1 << 18;

/// Bindings that may end at one queue or exchange.
const BINDINGS_MAX: usize = 1 << 16;

/// What a virtual host may have. `None` is no limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VhostLimits {
    /// Connections.
    pub connections_max: Option<u64>,
    /// Queues; `None`: 262144.
    pub queues_max: Option<u64>,
}

/// What a user may have, in all virtual hosts together. `None` is no limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UserLimits {
    /// Connections.
    pub connections_max: Option<u64>,
    /// Channels of all connections together.
    pub channels_max: Option<u64>,
}

impl VhostLimits {
    /// Whether `vhost`, which has `open` connections, may have one more, for `user`; 530 if not.
    pub fn admit_connection(&self, vhost: &str, user: &str, open: u64) -> Result<(), Error> {
        below(self.connections_max, open).map_err(|limit| {
            let text = format!(
                "access to vhost '{vhost}' refused for user '{user}': connection limit ({limit}) is reached"
            );
            Error::new(Kind::NotAllowed, text)
        })
    }

    /// Whether `vhost`, which has `count` queues, may have one more, `queue`; 406 if not.
    pub(crate) fn admit_queue(&self, vhost: &str, queue: &str, count: usize) -> Result<(), Error> {
        let limit = self.queues_max.or(Some(QUEUES_MAX));
        below(limit, u64::try_from(count).unwrap_or(u64::MAX)).map_err(|limit| {
            precondition(format!(
                "cannot declare queue '{queue}': queue limit in vhost '{vhost}' ({limit}) is reached"
            ))
        })
    }
}

impl UserLimits {
    /// Whether `user`, who has `open` connections, may have one more; 530 if not.
    pub fn admit_connection(&self, user: &str, open: u64) -> Result<(), Error> {
        below(self.connections_max, open).map_err(|limit| {
            let text =
                format!("connection refused for user '{user}': user connection limit ({limit}) is reached");
            Error::new(Kind::NotAllowed, text)
        })
    }

    /// Whether `user`, who has `open` channels, may have one more; 530 if not.
    pub fn admit_channel(&self, user: &str, open: u64) -> Result<(), Error> {
        below(self.channels_max, open).map_err(|limit| {
            let text = format!(
                "number of channels opened for user '{user}' has reached the maximum allowed user limit of ({limit})"
            );
            Error::new(Kind::NotAllowed, text)
        })
    }
}

/// Whether one more binding may end where `count` do; 406 if not.
pub(crate) fn admit_binding(destination: &str, vhost: &str, count: usize) -> Result<(), Error> {
    if count < BINDINGS_MAX {
        return Ok(());
    }
    let text =
        format!("cannot bind '{destination}' in vhost '{vhost}': binding limit ({BINDINGS_MAX}) is reached");
    Err(precondition(text))
}

/// Whether there is room for one more; the limit if not.
fn below(limit: Option<u64>, count: u64) -> Result<(), u64> {
    match limit {
        Some(limit) if count >= limit => Err(limit),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn one_more_up_to_the_limit_in_the_words_of_rabbitmq() {
        let limits = VhostLimits { connections_max: Some(2), queues_max: Some(0) };
        let of_user = UserLimits { connections_max: Some(1), channels_max: Some(3) };
        let found = [
            limits.admit_connection("/", "u", 1),
            limits.admit_connection("/", "u", 2),
            limits.admit_queue("/", "q", 0),
            of_user.admit_connection("u", 0),
            of_user.admit_connection("u", 1),
            of_user.admit_channel("u", 2),
            of_user.admit_channel("u", 3),
            VhostLimits::default().admit_connection("/", "u", u64::MAX),
            VhostLimits::default().admit_queue("/", "q", 262_143),
            VhostLimits::default().admit_queue("/", "q", 262_144),
            admit_binding("q", "/", 65_535),
            admit_binding("q", "/", 65_536),
        ];
        let story = found.map(|it| it.map_or_else(|error| error.text, |()| "ok".to_owned()));
        expect![[r#"
            ok
            access to vhost '/' refused for user 'u': connection limit (2) is reached
            cannot declare queue 'q': queue limit in vhost '/' (0) is reached
            ok
            connection refused for user 'u': user connection limit (1) is reached
            ok
            number of channels opened for user 'u' has reached the maximum allowed user limit of (3)
            ok
            ok
            cannot declare queue 'q': queue limit in vhost '/' (262144) is reached
            ok
            cannot bind 'q' in vhost '/': binding limit (65536) is reached"#]]
        .assert_eq(&story.join("\n"));
    }
}
