//! What a peer says it can do, in the `capabilities` table of its properties.

use crate::table::{Table, TableBuilder};

macro_rules! capabilities {
    ($($(#[$doc:meta])* $field:ident = $key:literal;)*) => {
        /// What a peer says it can do. All are off unless said.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct Capabilities {
            $($(#[$doc])* pub $field: bool,)*
        }

        impl Capabilities {
            /// Everything that RabbitMQ offers.
            pub const ALL: Capabilities = Capabilities { $($field: true),* };

            /// Reads the `capabilities` table in the properties of a peer; unknown ones are ignored.
            #[must_use]
            pub fn of(peer_properties: Table<'_>) -> Self {
                let mut found = Self::default();
                let table = peer_properties.get("capabilities").and_then(|value| value.as_table());
                for (key, value) in table.unwrap_or_default() {
                    match key {
                        $($key => found.$field = value.as_bool() == Some(true),)*
                        _ => {}
                    }
                }
                found
            }

            /// The `capabilities` table: those that are on, each true.
            #[must_use]
            pub fn to_table(self) -> TableBuilder {
                let mut table = TableBuilder::new();
                $(if self.$field {
                    table.insert($key, true);
                })*
                table
            }
        }
    };
}

capabilities! {
    /// `confirm.select` works.
    publisher_confirms = "publisher_confirms";
    /// `exchange.bind` works.
    exchange_exchange_bindings = "exchange_exchange_bindings";
    /// `basic.nack` works.
    basic_nack = "basic.nack";
    /// A server may send `basic.cancel`.
    consumer_cancel_notify = "consumer_cancel_notify";
    /// A server may send `connection.blocked`.
    connection_blocked = "connection.blocked";
    /// `x-priority` of a consumer works.
    consumer_priorities = "consumer_priorities";
    /// A failed login is answered with `connection.close`.
    authentication_failure_close = "authentication_failure_close";
    /// A prefetch count holds for each consumer, not for the channel.
    per_consumer_qos = "per_consumer_qos";
    /// `amq.rabbitmq.reply-to` works.
    direct_reply_to = "direct_reply_to";
}
