//! Direct reply-to: answers go straight to the connection that asked, through a volatile queue that only its address
//! names. The address is hard to guess, and is all that is needed to answer.

use amqp::error::Error;
use broker::id::QueueId;

use super::Session;

/// What a requester consumes from, and sets as reply-to.
pub(super) const PSEUDO_QUEUE: &str = "amq.rabbitmq.reply-to";

/// What an answer is published to, before the number of the volatile queue.
const ADDRESS: &str = "amq.rabbitmq.reply-to.";

impl Session {
    /// The address that answers to this channel's requests are sent to.
    pub(super) fn reply_address(&mut self, number: u16) -> Result<String, Error> {
        match self.channel(number)?.reply_queue {
            Some(queue) => Ok(format!("{ADDRESS}{:016x}", queue.0)),
            None => Err(Error::precondition_failed("fast reply consumer does not exist")),
        }
    }
}

/// The volatile queue that a message to the default exchange is an answer to.
pub(super) fn parse(exchange: &str, routing_key: &str) -> Option<QueueId> {
    let number = routing_key.strip_prefix(ADDRESS).filter(|_| exchange.is_empty())?;
    queue_of(number)
}

/// The volatile queue that a declare asks for.
pub(super) fn parse_name(name: &str) -> Option<Option<QueueId>> {
    name.strip_prefix(ADDRESS).map(queue_of)
}

fn queue_of(number: &str) -> Option<QueueId> {
    let well_formed = number.len() == 16;
    let id = u64::from_str_radix(number, 16).ok().filter(|_| well_formed)?;
    Some(QueueId(id)).filter(|queue| queue.is_volatile())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_its_queue_and_nothing_else_does() {
        let queue = QueueId::volatile(0x1234);
        let address = format!("{ADDRESS}{:016x}", queue.0);
        assert_eq!(parse("", &address), Some(queue));
        assert_eq!(parse("x", &address), None);
        assert_eq!(parse("", "amq.rabbitmq.reply-to.0000000000000001"), None, "not volatile");
        assert_eq!(parse("", "amq.rabbitmq.reply-to.+000000000001234"), None);
        assert_eq!(parse("", PSEUDO_QUEUE), None);
        assert_eq!(parse_name("q"), None);
        assert_eq!(parse_name("amq.rabbitmq.reply-to.x"), Some(None));
    }
}
