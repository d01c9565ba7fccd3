//! What a queue with message groups does differently: see [`Groups`] for the groups themselves.
//!
//! All that waits in such a queue is in memory, message by message. To which group a message belongs is in its headers, so
//! nothing of it is in the log.

use std::io::Write;

use amqp::properties::Properties;
use amqp::table::Value;

use super::extras::Extras;
use super::groups::Groups;
use super::{Queue, Run};
use crate::message::Message;
use crate::record::Span;
use crate::sequence::Stretch;

/// Before the value of a header in a key: an empty key is that of messages without a group.
const GROUPED: u8 = b'=';

impl Queue {
    pub(super) fn groups(&self) -> Option<&Groups> {
        self.extras.as_deref()?.groups.as_deref()
    }

    pub(super) fn groups_mut(&mut self) -> Option<&mut Groups> {
        groups_of(&mut self.extras)
    }

    /// Puts messages into their groups.
    pub(super) fn enqueue_by_group(&mut self, first: u64, mut run: Run) {
        let Queue { options, extras, .. } = self;
        let (Some(grouping), Some(groups)) = (&options.settings.groups, groups_of(extras)) else { return };
        let mut key = Vec::new();
        for number in first..first + u64::from(run.count()) {
            let mut part = if run.count() > 1 { run.split_to(1) } else { run.clone() };
            // It may wait for longer than those that came with it.
            part.stays();
            read_key(part.messages.first(), &grouping.header, &mut key);
            groups.insert(number, &key, part);
        }
    }

    /// Takes the oldest of all messages that wait in groups.
    pub(super) fn pop_grouped(&mut self) -> Option<(u64, Run)> {
        let groups = self.groups_mut()?;
        let (number, _) = groups.first()?;
        Some((number, groups.take(number)?))
    }

    /// Takes messages that wait in groups, by their numbers.
    pub(super) fn take_grouped(&mut self, span: Span) -> Vec<(u64, Run)> {
        let Some(groups) = self.groups_mut() else { return Vec::new() };
        let numbers = groups.numbers(span).into_iter();
        numbers.filter_map(|number| Some((number, groups.take(number)?))).collect()
    }
}

pub(super) fn groups_of(extras: &mut Option<Box<Extras>>) -> Option<&mut Groups> {
    extras.as_deref_mut()?.groups.as_deref_mut()
}

/// Messages that were out are not any more, nor do they wait: their groups go on.
pub(super) fn release(extras: &mut Option<Box<Extras>>, first: u64, run: &Run) {
    if let Some(groups) = groups_of(extras) {
        (first..first + u64::from(run.count())).for_each(|number| groups.release(number));
    }
}

/// The key of a message's group, by the value of its header: strings, bytes and integers, whose digits count. Whatever else
/// it is, the message belongs to no group.
fn read_key(message: Message<'_>, header: &str, key: &mut Vec<u8>) {
    key.clear();
    let headers = Properties::new(message.properties()).ok().and_then(Properties::headers);
    let Some(value) = headers.and_then(|headers| headers.get(header)) else { return };
    match (value, value.as_int()) {
        (Value::LongString(text) | Value::Binary(text), _) => {
            key.push(GROUPED);
            key.extend_from_slice(text);
        }
        (_, Some(number)) => {
            key.push(GROUPED);
            write!(key, "{number}").expect("a vector takes what is written");
        }
        (_, None) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Parts;
    use amqp::properties::PropertiesBuilder;
    use amqp::table::TableBuilder;
    use expect_test::expect;

    #[test]
    fn the_value_of_a_header_is_the_key() {
        let values: [Value<'_>; 11] = [
            "tenant".into(),
            "".into(),
            "7".into(),
            7i32.into(),
            (-7i64).into(),
            Value::U8(7),
            Value::Binary(b"tenant"),
            true.into(),
            Value::F64(7.0),
            Value::Timestamp(7),
            Value::Void,
        ];
        let mut story = String::new();
        let mut key = b"left over".to_vec();
        for value in values {
            let headers = TableBuilder::new().with("other", "x").with("key", value);
            let headers = Some(headers.as_table());
            let properties = PropertiesBuilder { headers, ..PropertiesBuilder::default() }.to_bytes();
            let parts = Parts { route: &[0, 0], properties: &properties, body: b"" };
            read_key(parts.to_messages().first(), "key", &mut key);
            story += &format!("{} {value}: {:?}\n", value.type_name(), String::from_utf8_lossy(&key));
        }
        let parts = Parts { route: &[0, 0], properties: &[0, 0], body: b"" };
        read_key(parts.to_messages().first(), "key", &mut key);
        story += &format!("no headers: {:?}\n", String::from_utf8_lossy(&key));
        expect![[r#"
            longstr tenant: "=tenant"
            longstr : "="
            longstr 7: "=7"
            signedint 7: "=7"
            long -7: "=-7"
            unsignedbyte 7: "=7"
            binary tenant: "=tenant"
            bool true: ""
            double 7.0: ""
            timestamp 7: ""
            void undefined: ""
            no headers: ""
        "#]]
        .assert_eq(&story);
    }
}
