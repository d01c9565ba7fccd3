//! Every method of AMQP 0-9-1 as RabbitMQ speaks it, in both directions.
//!
//! The table below lists class, method, name and fields in the order of the specification; structs, decoding
//! and encoding come from it. Fields in brackets are reserved: zero on the wire and absent from the struct.

mod field;

use crate::error::{Error, Result};
use crate::table::Table;
use crate::wire::Reader;
use field::{Decoder, Encoder, Field};

macro_rules! methods {
    ($(
        $class:ident = $class_id:literal {
            $(
                $name:literal $variant:ident $struct:ident $(<$life:lifetime>)? = $method_id:literal
                [$($before:ty),*] { $($field:ident: $type:ty),* } [$($after:ty),*];
            )*
        }
    )*) => {
        /// A method with its fields. Everything borrows from the bytes it was decoded from.
        #[derive(Clone, Copy, PartialEq, Debug)]
        pub enum Method<'a> {
            $($(#[doc = concat!("`", $name, "`")] $variant($class::$struct $(<$life>)?),)*)*
        }

        impl<'a> Method<'a> {
            /// The names of all methods, in the order of the specification.
            pub const NAMES: &'static [&'static str] = &[$($($name,)*)*];

            /// Decodes a method frame's payload: class id, method id, fields.
            ///
            /// # Errors
            /// `502 SYNTAX_ERROR` if fields are missing, malformed or left over; `503 COMMAND_INVALID` if
            /// there is no such method.
            #[inline]
            pub fn decode(payload: &'a [u8]) -> Result<Self> {
                let mut reader = Reader::new(payload);
                let id = (reader.u16()?, reader.u16()?);
                Self::decode_fields(id, reader).map_err(|error| error.at(id))
            }

            #[inline]
            fn decode_fields(id: (u16, u16), reader: Reader<'a>) -> Result<Self> {
                match id {
                    $($(($class_id, $method_id) => $class::$struct::decode(reader).map(Self::$variant),)*)*
                    _ => Err(Error::command_invalid(format!("unknown method {},{}", id.0, id.1))),
                }
            }

            /// Appends a method frame's payload: class id, method id, fields.
            ///
            /// # Panics
            /// If a short string is longer than 255 bytes.
            pub fn encode(&self, out: &mut Vec<u8>) {
                let (class, method) = self.id();
                out.extend_from_slice(&class.to_be_bytes());
                out.extend_from_slice(&method.to_be_bytes());
                match self {
                    $($(Self::$variant(fields) => fields.encode(out),)*)*
                }
            }

            /// Class and method id.
            #[must_use]
            pub const fn id(&self) -> (u16, u16) {
                match self {
                    $($(Self::$variant(_) => ($class_id, $method_id),)*)*
                }
            }

            /// The name in the specification, such as `queue.declare`.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self {
                    $($(Self::$variant(_) => $name,)*)*
                }
            }
        }

        $(
            #[doc = concat!("Fields of the methods of class ", $class_id, ", `", stringify!($class), "`.")]
            pub mod $class {
                #![allow(missing_docs, reason = "the fields have the specification's names and meanings")]

                #[allow(unused_imports, reason = "some classes have no table and some no strings")]
                use super::{Decoder, Encoder, Field, Reader, Result, Table};

                $(
                    #[doc = concat!("The fields of `", $name, "`.")]
                    #[derive(Clone, Copy, PartialEq, Debug)]
                    pub struct $struct $(<$life>)? {
                        $(pub $field: $type,)*
                    }

                    impl<'a> $struct $(<$life>)? {
                        #[inline]
                        #[allow(unused_mut, reason = "some methods have no fields")]
                        pub(super) fn decode(reader: Reader<'a>) -> Result<Self> {
                            let mut decoder = Decoder::new(reader);
                            $(<$before>::decode(&mut decoder)?;)*
                            $(let $field = Field::decode(&mut decoder)?;)*
                            $(<$after>::decode(&mut decoder)?;)*
                            decoder.finish()?;
                            Ok(Self { $($field),* })
                        }

                        #[allow(unused_mut, reason = "some methods have no fields")]
                        pub(super) fn encode(&self, out: &mut Vec<u8>) {
                            let mut encoder = Encoder::new(out);
                            $(<$before>::default().encode(&mut encoder);)*
                            $(self.$field.encode(&mut encoder);)*
                            $(<$after>::default().encode(&mut encoder);)*
                            let _ = encoder;
                        }
                    }
                )*
            }
        )*
    };
}

methods! {
    connection = 10 {
        "connection.start" ConnectionStart Start<'a> = 10 [] {
            version_major: u8, version_minor: u8, server_properties: Table<'a>, mechanisms: &'a [u8], locales: &'a [u8]
        } [];
        "connection.start-ok" ConnectionStartOk StartOk<'a> = 11 [] {
            client_properties: Table<'a>, mechanism: &'a str, response: &'a [u8], locale: &'a str
        } [];
        "connection.secure" ConnectionSecure Secure<'a> = 20 [] { challenge: &'a [u8] } [];
        "connection.secure-ok" ConnectionSecureOk SecureOk<'a> = 21 [] { response: &'a [u8] } [];
        "connection.tune" ConnectionTune Tune = 30 [] { channel_max: u16, frame_max: u32, heartbeat: u16 } [];
        "connection.tune-ok" ConnectionTuneOk TuneOk = 31 [] { channel_max: u16, frame_max: u32, heartbeat: u16 } [];
        "connection.open" ConnectionOpen Open<'a> = 40 [] { vhost: &'a str } [&str, bool];
        "connection.open-ok" ConnectionOpenOk OpenOk = 41 [] {} [&str];
        "connection.close" ConnectionClose Close<'a> = 50 [] {
            reply_code: u16, reply_text: &'a str, class_id: u16, method_id: u16
        } [];
        "connection.close-ok" ConnectionCloseOk CloseOk = 51 [] {} [];
        "connection.blocked" ConnectionBlocked Blocked<'a> = 60 [] { reason: &'a str } [];
        "connection.unblocked" ConnectionUnblocked Unblocked = 61 [] {} [];
        "connection.update-secret" ConnectionUpdateSecret UpdateSecret<'a> = 70 [] {
            new_secret: &'a [u8], reason: &'a str
        } [];
        "connection.update-secret-ok" ConnectionUpdateSecretOk UpdateSecretOk = 71 [] {} [];
    }
    channel = 20 {
        "channel.open" ChannelOpen Open = 10 [] {} [&str];
        "channel.open-ok" ChannelOpenOk OpenOk = 11 [] {} [&[u8]];
        "channel.flow" ChannelFlow Flow = 20 [] { active: bool } [];
        "channel.flow-ok" ChannelFlowOk FlowOk = 21 [] { active: bool } [];
        "channel.close" ChannelClose Close<'a> = 40 [] {
            reply_code: u16, reply_text: &'a str, class_id: u16, method_id: u16
        } [];
        "channel.close-ok" ChannelCloseOk CloseOk = 41 [] {} [];
    }
    access = 30 {
        "access.request" AccessRequest Request<'a> = 10 [] {
            realm: &'a str, exclusive: bool, passive: bool, active: bool, write: bool, read: bool
        } [];
        "access.request-ok" AccessRequestOk RequestOk = 11 [] { ticket: u16 } [];
    }
    exchange = 40 {
        "exchange.declare" ExchangeDeclare Declare<'a> = 10 [u16] {
            exchange: &'a str, kind: &'a str, passive: bool, durable: bool, auto_delete: bool, internal: bool,
            nowait: bool, arguments: Table<'a>
        } [];
        "exchange.declare-ok" ExchangeDeclareOk DeclareOk = 11 [] {} [];
        "exchange.delete" ExchangeDelete Delete<'a> = 20 [u16] {
            exchange: &'a str, if_unused: bool, nowait: bool
        } [];
        "exchange.delete-ok" ExchangeDeleteOk DeleteOk = 21 [] {} [];
        "exchange.bind" ExchangeBind Bind<'a> = 30 [u16] {
            destination: &'a str, source: &'a str, routing_key: &'a str, nowait: bool, arguments: Table<'a>
        } [];
        "exchange.bind-ok" ExchangeBindOk BindOk = 31 [] {} [];
        "exchange.unbind" ExchangeUnbind Unbind<'a> = 40 [u16] {
            destination: &'a str, source: &'a str, routing_key: &'a str, nowait: bool, arguments: Table<'a>
        } [];
        "exchange.unbind-ok" ExchangeUnbindOk UnbindOk = 51 [] {} [];
    }
    queue = 50 {
        "queue.declare" QueueDeclare Declare<'a> = 10 [u16] {
            queue: &'a str, passive: bool, durable: bool, exclusive: bool, auto_delete: bool, nowait: bool,
            arguments: Table<'a>
        } [];
        "queue.declare-ok" QueueDeclareOk DeclareOk<'a> = 11 [] {
            queue: &'a str, message_count: u32, consumer_count: u32
        } [];
        "queue.bind" QueueBind Bind<'a> = 20 [u16] {
            queue: &'a str, exchange: &'a str, routing_key: &'a str, nowait: bool, arguments: Table<'a>
        } [];
        "queue.bind-ok" QueueBindOk BindOk = 21 [] {} [];
        "queue.purge" QueuePurge Purge<'a> = 30 [u16] { queue: &'a str, nowait: bool } [];
        "queue.purge-ok" QueuePurgeOk PurgeOk = 31 [] { message_count: u32 } [];
        "queue.delete" QueueDelete Delete<'a> = 40 [u16] {
            queue: &'a str, if_unused: bool, if_empty: bool, nowait: bool
        } [];
        "queue.delete-ok" QueueDeleteOk DeleteOk = 41 [] { message_count: u32 } [];
        "queue.unbind" QueueUnbind Unbind<'a> = 50 [u16] {
            queue: &'a str, exchange: &'a str, routing_key: &'a str, arguments: Table<'a>
        } [];
        "queue.unbind-ok" QueueUnbindOk UnbindOk = 51 [] {} [];
    }
    basic = 60 {
        "basic.qos" BasicQos Qos = 10 [] { prefetch_size: u32, prefetch_count: u16, global: bool } [];
        "basic.qos-ok" BasicQosOk QosOk = 11 [] {} [];
        "basic.consume" BasicConsume Consume<'a> = 20 [u16] {
            queue: &'a str, consumer_tag: &'a str, no_local: bool, no_ack: bool, exclusive: bool, nowait: bool,
            arguments: Table<'a>
        } [];
        "basic.consume-ok" BasicConsumeOk ConsumeOk<'a> = 21 [] { consumer_tag: &'a str } [];
        "basic.cancel" BasicCancel Cancel<'a> = 30 [] { consumer_tag: &'a str, nowait: bool } [];
        "basic.cancel-ok" BasicCancelOk CancelOk<'a> = 31 [] { consumer_tag: &'a str } [];
        "basic.publish" BasicPublish Publish<'a> = 40 [u16] {
            exchange: &'a str, routing_key: &'a str, mandatory: bool, immediate: bool
        } [];
        "basic.return" BasicReturn Return<'a> = 50 [] {
            reply_code: u16, reply_text: &'a str, exchange: &'a str, routing_key: &'a str
        } [];
        "basic.deliver" BasicDeliver Deliver<'a> = 60 [] {
            consumer_tag: &'a str, delivery_tag: u64, redelivered: bool, exchange: &'a str, routing_key: &'a str
        } [];
        "basic.get" BasicGet Get<'a> = 70 [u16] { queue: &'a str, no_ack: bool } [];
        "basic.get-ok" BasicGetOk GetOk<'a> = 71 [] {
            delivery_tag: u64, redelivered: bool, exchange: &'a str, routing_key: &'a str, message_count: u32
        } [];
        "basic.get-empty" BasicGetEmpty GetEmpty = 72 [] {} [&str];
        "basic.ack" BasicAck Ack = 80 [] { delivery_tag: u64, multiple: bool } [];
        "basic.reject" BasicReject Reject = 90 [] { delivery_tag: u64, requeue: bool } [];
        "basic.recover-async" BasicRecoverAsync RecoverAsync = 100 [] { requeue: bool } [];
        "basic.recover" BasicRecover Recover = 110 [] { requeue: bool } [];
        "basic.recover-ok" BasicRecoverOk RecoverOk = 111 [] {} [];
        "basic.nack" BasicNack Nack = 120 [] { delivery_tag: u64, multiple: bool, requeue: bool } [];
    }
    confirm = 85 {
        "confirm.select" ConfirmSelect Select = 10 [] { nowait: bool } [];
        "confirm.select-ok" ConfirmSelectOk SelectOk = 11 [] {} [];
    }
    tx = 90 {
        "tx.select" TxSelect Select = 10 [] {} [];
        "tx.select-ok" TxSelectOk SelectOk = 11 [] {} [];
        "tx.commit" TxCommit Commit = 20 [] {} [];
        "tx.commit-ok" TxCommitOk CommitOk = 21 [] {} [];
        "tx.rollback" TxRollback Rollback = 30 [] {} [];
        "tx.rollback-ok" TxRollbackOk RollbackOk = 31 [] {} [];
    }
}

impl Method<'_> {
    /// Whether a content header and body follow the method.
    #[must_use]
    #[inline]
    pub const fn has_content(&self) -> bool {
        matches!(
            self,
            Self::BasicPublish(_) | Self::BasicReturn(_) | Self::BasicDeliver(_) | Self::BasicGetOk(_)
        )
    }
}
