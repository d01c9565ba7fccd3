//! Names the arguments and keys of policies that change nothing, each once: one that is misspelt looks like one that works.

use std::collections::BTreeSet;

use broker::arguments::Arguments;
use broker::meta::{Record, queue_argument_has_effect};
use broker::policy;
use broker::topology::EXCHANGE_ARGUMENTS;
use tracing::info;

/// So many are named, then no more: clients may send any number.
const NAMED_MAX: usize = 100;

/// What was named already.
#[derive(Debug, Default)]
pub(super) struct Unheeded {
    named: BTreeSet<(&'static str, String)>,
}

/// What is said about something that comes or changes.
struct Said<'r> {
    of: &'static str,
    name: &'r str,
    arguments: &'r Arguments,
    has_effect: fn(&str) -> bool,
}

impl Unheeded {
    /// Looks at what comes or changes.
    pub(super) fn look(&mut self, record: &Record) {
        let Some(said) = Said::by(record) else { return };
        for key in self.news(&said) {
            info!(
                key,
                of = said.of,
                name = said.name,
                "an argument is kept and changes nothing; it is named once"
            );
        }
    }

    fn news<'r>(&mut self, said: &Said<'r>) -> Vec<&'r str> {
        let keys = said.arguments.table().iter().map(|(key, _)| key);
        let unheeded = keys.filter(|key| !(said.has_effect)(key));
        let is_new =
            |key: &&str| self.named.len() < NAMED_MAX && self.named.insert((said.of, (*key).to_owned()));
        unheeded.filter(is_new).collect()
    }
}

impl<'r> Said<'r> {
    fn by(record: &'r Record) -> Option<Said<'r>> {
        let (of, name, arguments, has_effect): (_, _, _, fn(&str) -> bool) = match record {
            Record::QueueDeclared { queue } => {
                ("queue", &queue.name, &queue.arguments, queue_argument_has_effect)
            }
            Record::ExchangeDeclared { exchange, .. } => {
                ("exchange", &exchange.name, &exchange.arguments, |key| EXCHANGE_ARGUMENTS.contains(&key))
            }
            Record::PolicyPut { policy, .. } => {
                ("policy", &policy.name, &policy.definition, policy::has_effect)
            }
            _ => return None,
        };
        Some(Said { of, name, arguments, has_effect })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use amqp::table::TableBuilder;
    use broker::id::QueueId;
    use broker::topology::Queue;

    use super::*;

    fn queue(keys: &[&str]) -> Record {
        let arguments = keys.iter().fold(TableBuilder::new(), |table, key| table.with(key, 1i32));
        let queue = Queue {
            id: QueueId(1),
            vhost: "/".into(),
            name: "q".into(),
            durable: false,
            auto_delete: false,
            exclusive: None,
            arguments: arguments.as_table().into(),
        };
        Record::QueueDeclared { queue: Arc::new(queue) }
    }

    #[test]
    fn each_is_named_once() {
        let mut unheeded = Unheeded::default();
        let mut news = |record: &Record| unheeded.news(&Said::by(record).unwrap()).join(" ");
        let declared = queue(&["x-message-ttl", "x-mesage-ttl", "x-queue-version"]);
        assert_eq!(news(&declared), "x-mesage-ttl x-queue-version");
        assert_eq!(news(&declared), "");
        assert_eq!(news(&queue(&["mine", "x-queue-version"])), "mine");
    }

    #[test]
    fn not_more_than_so_many_are() {
        let mut unheeded = Unheeded::default();
        let mut count = |key: &str| unheeded.news(&Said::by(&queue(&[key])).unwrap()).len();
        for number in 0..NAMED_MAX {
            assert_eq!(count(&format!("k{number}")), 1);
        }
        assert_eq!(count("one-too-many"), 0);
    }
}
