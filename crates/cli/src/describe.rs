//! Journal records as text, for people.

use amqp::properties::Properties;
use broker::arguments::Arguments;
use broker::message::Message;
use broker::meta;
use broker::page::{Extent, Segment};
use broker::policy::{Policy, Tier};
use broker::queue::Seen;
use broker::record::{Record, Span};
use broker::stream::{self, Bounds, Piece};
use broker::topology::{Binding, Destination, Queue};

/// Bytes of a body that are shown.
const BODY_SHOWN: usize = 40;

/// What a record of a shard's or the meta journal says, on one line.
pub(crate) fn record(kind: u8, version: u8, payload: &[u8]) -> String {
    if kind == meta::KIND {
        return match meta::Record::decode(kind, version, payload) {
            Ok(record) => meta_record(&record),
            Err(error) => error.text,
        };
    }
    match Record::decode(kind, version, payload) {
        Some(record) => shard_record(&record),
        None => format!("kind {kind} version {version} is none that this version of leveret knows"),
    }
}

fn shard_record(record: &Record) -> String {
    match record {
        Record::Enqueue { targets, messages } => {
            let count = messages.count();
            let targets: Vec<_> = targets
                .iter()
                .map(|(queue, first)| format!("queue {queue} {}", span(&Span { first: *first, count })))
                .collect();
            // A line for each message where they are several.
            let between = if count > 1 { "\n    " } else { " " };
            let messages: String = messages.iter().map(|one| format!("{between}{}", message(one))).collect();
            format!("enqueue in {}:{messages}", targets.join(", "))
        }
        Record::Settle { queue, spans } => {
            let spans: Vec<_> = spans.iter().map(span).collect();
            format!("settle in queue {queue} {}", spans.join(", "))
        }
        Record::Delivered { queue, last } => format!("delivered from queue {queue} up to #{last}"),
        Record::Spilled { queue, extent, spans } => {
            let Extent { segment: Segment { number, incarnation }, from, to } = extent;
            let spans: Vec<_> = spans.iter().map(span).collect();
            let (from, to) = (from.offset, to.offset);
            let place = format!("segment {number} in incarnation {incarnation:#x}, bytes {from} to {to}");
            format!("spilled of queue {queue} to {place}: {}", spans.join(", "))
        }
        Record::Arrived { queue, marks } => {
            let marks: Vec<_> =
                marks.iter().map(|mark| format!("#{} at {} ms", mark.first, mark.ms)).collect();
            format!("arrived in queue {queue}: from {}", marks.join(", from "))
        }
        Record::Returned { queue, returns, spans } => {
            let spans: Vec<_> = spans.iter().map(span).collect();
            format!("returned {returns} times to queue {queue}: {}", spans.join(", "))
        }
        Record::Once { queue, first, seen: remembered, messages } => {
            let enqueued = Record::Enqueue { targets: vec![(*queue, *first)], messages: messages.clone() };
            format!("{}, once: {}", shard_record(&enqueued), seen(remembered))
        }
        Record::Seen { queue, seen: remembered } => format!("seen in queue {queue}: {}", seen(remembered)),
        Record::Stream(record) => stream_record(record),
    }
}

/// What is remembered of messages.
fn seen(all: &[Seen]) -> String {
    let one = |seen: &Seen| {
        let id: String = seen.id.iter().map(|byte| format!("{byte:02x}")).collect();
        let until = if seen.until == u64::MAX { String::new() } else { format!(" until {} ms", seen.until) };
        format!("#{} as {id}{until}", seen.number)
    };
    all.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn stream_record(record: &stream::record::Record) -> String {
    use stream::record::Record;
    match record {
        Record::Stamped { stream, stamps } => {
            let stamps: Vec<_> =
                stamps.iter().map(|(first, time_ms)| format!("from #{first} at {time_ms} ms")).collect();
            format!("written to stream {stream} {}", stamps.join(", "))
        }
        Record::Appended { stream, segment: Segment { number, incarnation }, pieces } => {
            let pieces: Vec<_> = pieces.iter().map(piece).collect();
            let place = format!("segment {number} in incarnation {incarnation:#x}");
            format!("appended of stream {stream} to {place}: {}", pieces.join("; "))
        }
        Record::Bounds { stream, bounds: Bounds { start, next, time_ms } } => {
            format!("stream {stream} begins with #{start} and goes on with #{next} after {time_ms} ms")
        }
        Record::Tracked { stream, offsets } => {
            let offsets: Vec<_> =
                offsets.iter().map(|(name, offset)| format!("{name:?} up to #{offset}")).collect();
            format!("read of stream {stream}: {}", offsets.join(", "))
        }
    }
}

fn piece(piece: &Piece) -> String {
    let Piece { from, to, first_ms, last_ms, marks } = piece;
    let count = to.sequence.saturating_sub(from.sequence);
    let span = span(&Span { first: from.sequence, count: u32::try_from(count).unwrap_or(u32::MAX) });
    let filter = match (marks.bloom.len(), marks.unfiltered) {
        (0, _) => String::new(),
        (size, unfiltered) => {
            let and = if unfiltered { " and messages without a value" } else { "" };
            format!(", filter of {size} bytes{and}")
        }
    };
    format!("bytes {} to {} {span}, {first_ms} to {last_ms} ms{filter}", from.offset, to.offset)
}

fn message(message: Message<'_>) -> String {
    let is_persistent = Properties::new(message.properties()).is_ok_and(Properties::is_persistent);
    let kept = if is_persistent { "persistent" } else { "transient" };
    let (exchange, key, body) = (message.exchange(), message.routing_key(), message.body());
    format!("{kept}, from {exchange:?} by {key:?}, {} B {}", body.len(), shown(body))
}

fn span(Span { first, count }: &Span) -> String {
    match count {
        1 => format!("#{first}"),
        _ => format!("#{first} to #{}", first.saturating_add(u64::from(*count)).saturating_sub(1)),
    }
}

/// The beginning of a body, without what a terminal would obey.
fn shown(body: &[u8]) -> String {
    let more = if body.len() > BODY_SHOWN { "…" } else { "" };
    format!("\"{}\"{more}", body[..body.len().min(BODY_SHOWN)].escape_ascii())
}

fn meta_record(record: &meta::Record) -> String {
    match record {
        meta::Record::QueueIdsReserved { below } => format!("queue ids below {below} reserved"),
        meta::Record::VhostAdded { name } => format!("virtual host {name:?} added"),
        meta::Record::VhostDeleted { name } => format!("virtual host {name:?} deleted"),
        meta::Record::ExchangeDeclared { vhost, exchange } => {
            let (name, kind, arguments) =
                (&exchange.name, exchange.kind.as_str(), arguments(&exchange.arguments));
            let flags = flags([("auto-delete", exchange.auto_delete), ("internal", exchange.internal)]);
            format!("exchange {name:?} in {vhost:?} declared: {kind}{flags}{arguments}")
        }
        meta::Record::ExchangeDeleted { vhost, name, .. } => {
            format!("exchange {name:?} in {vhost:?} deleted")
        }
        meta::Record::QueueDeclared { queue } => queue_declared(queue),
        meta::Record::QueueDeleted { id, .. } => format!("queue {id} deleted"),
        meta::Record::Bound { vhost, binding, .. } => {
            format!("bound in {vhost:?}: {}", binding_ends(binding))
        }
        meta::Record::Unbound { vhost, binding, .. } => {
            format!("unbound in {vhost:?}: {}", binding_ends(binding))
        }
        meta::Record::UserPut { user } => {
            format!("user {:?} put: tags [{}]", user.name, user.tags.join(", "))
        }
        meta::Record::UserDeleted { name } => format!("user {name:?} deleted"),
        meta::Record::PermissionsSet { user, vhost, permissions } => {
            let (configure, write, read) = (&permissions.configure, &permissions.write, &permissions.read);
            format!(
                "permissions of {user:?} in {vhost:?} set: configure {configure:?}, write {write:?}, read {read:?}"
            )
        }
        meta::Record::TopicPermissionsSet { user, vhost, exchange, permissions } => {
            let (write, read) = (&permissions.write, &permissions.read);
            format!(
                "topic permissions of {user:?} for {exchange:?} in {vhost:?} set: write {write:?}, read {read:?}"
            )
        }
        meta::Record::PermissionsCleared { user, vhost } => {
            format!("permissions of {user:?} in {vhost:?} cleared")
        }
        meta::Record::PolicyPut { vhost, tier, policy } => policy_put(vhost, *tier, policy),
        meta::Record::PolicyDeleted { vhost, tier, name } => {
            format!("{} {name:?} in {vhost:?} deleted", tier.as_str())
        }
        meta::Record::VhostMetadataSet { vhost, metadata } => {
            format!("virtual host {vhost:?} described: {metadata:?}")
        }
        meta::Record::VhostLimitsSet { vhost, limits } => {
            let of = [("connections", limits.connections_max), ("queues", limits.queues_max)];
            format!("limits of {vhost:?} set: {}", limits_set(of))
        }
        meta::Record::UserLimitsSet { user, limits } => {
            let of = [("connections", limits.connections_max), ("channels", limits.channels_max)];
            format!("limits of user {user:?} set: {}", limits_set(of))
        }
    }
}

fn limits_set(limits: [(&str, Option<u64>); 2]) -> String {
    let limits = limits.map(|(what, limit)| match limit {
        Some(limit) => format!("{what} {limit}"),
        None => format!("{what} unlimited"),
    });
    limits.join(", ")
}

fn policy_put(vhost: &str, tier: Tier, policy: &Policy) -> String {
    let Policy { name, pattern, apply_to, priority, definition } = policy;
    let (what, definition) = (tier.as_str(), arguments(definition));
    format!(
        "{what} {name:?} in {vhost:?} put: pattern {pattern:?}, {apply_to:?}, priority {priority}{definition}"
    )
}

fn queue_declared(queue: &Queue) -> String {
    let Queue { id, vhost, name, auto_delete, exclusive, .. } = queue;
    let flags = flags([("auto-delete", *auto_delete), ("exclusive", exclusive.is_some())]);
    format!("queue {id} {name:?} in {vhost:?} declared{flags}{}", arguments(&queue.arguments))
}

fn binding_ends(binding: &Binding) -> String {
    let Binding { source, routing_key, destination, .. } = binding;
    let destination = match destination {
        Destination::Queue(id) => format!("queue {id}"),
        Destination::Exchange(name) => format!("exchange {name:?}"),
    };
    format!("{source:?} to {destination} by {routing_key:?}{}", arguments(&binding.arguments))
}

fn flags(flags: [(&str, bool); 2]) -> String {
    flags.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| format!(", {name}")).collect()
}

fn arguments(arguments: &Arguments) -> String {
    let fields = arguments.table();
    fields
        .iter()
        .map(|(key, value)| format!(", {}={}", key.escape_debug(), value.to_string().escape_debug()))
        .collect()
}

#[cfg(test)]
mod tests {
    use broker::id::QueueId;
    use broker::page::Place;
    use broker::record::{Log, Position};
    use broker::stream::Marks;
    use broker::stream::record as streams;

    use super::*;

    struct Lines(String);

    impl Log for Lines {
        fn append(&mut self, kind: u8, payload: &[&[u8]]) -> Position {
            self.0 += &record(kind, broker::record::VERSION, &payload.concat());
            self.0.push('\n');
            0
        }
    }

    #[test]
    fn records_of_streams() {
        let mut lines = Lines(String::new());
        let stream = QueueId(7);
        streams::append_stamped(&mut lines, stream, &[(3, 1000), (5, 1001)]);
        let piece = |unfiltered, bloom: &[u8]| Piece {
            from: Place { offset: 64, sequence: 3 },
            to: Place { offset: 900, sequence: 10 },
            first_ms: 1000,
            last_ms: 1002,
            marks: Marks { unfiltered, bloom: bloom.into() },
        };
        let pieces = [piece(true, &[]), piece(false, &[1; 16]), piece(true, &[1; 16])];
        streams::append_appended(&mut lines, stream, Segment { number: 3, incarnation: 0xab }, &pieces);
        streams::append_bounds(&mut lines, stream, Bounds { start: 3, next: 12, time_ms: 1002 });
        streams::append_tracked(&mut lines, stream, &[("one".into(), 4), ("t\u{1b}wo".into(), 5)]);
        let expected = r#"
written to stream 7 from #3 at 1000 ms, from #5 at 1001 ms
appended of stream 7 to segment 3 in incarnation 0xab: PIECE; PIECE, filter of 16 bytes; PIECE, filter of 16 bytes and messages without a value
stream 7 begins with #3 and goes on with #12 after 1002 ms
read of stream 7: "one" up to #4, "t\u{1b}wo" up to #5
"#;
        let piece = "bytes 64 to 900 #3 to #9, 1000 to 1002 ms";
        assert_eq!(lines.0, expected.trim_start().replace("PIECE", piece));
    }
}
