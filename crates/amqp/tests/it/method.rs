//! Methods: their numbers, their bytes, and that all of them survive the wire.

use amqp::frame;
use amqp::method::{Method, access, basic, channel, confirm, connection, exchange, queue, tx};
use amqp::table::{Table, TableBuilder};
use expect_test::expect;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::arbitrary::{build_table, fields};

/// One value per type of field; all methods are made of them.
struct Parts<'a> {
    s: [&'a str; 3],
    b: [bool; 5],
    n: u64,
    bytes: &'a [u8],
    table: Table<'a>,
}

impl<'a> Parts<'a> {
    fn u8(&self) -> u8 {
        self.n.to_be_bytes()[0]
    }

    fn u16(&self) -> u16 {
        u16::from_be_bytes([self.u8(), self.n.to_be_bytes()[1]])
    }

    fn u32(&self) -> u32 {
        u32::try_from(self.n & 0xffff_ffff).unwrap()
    }

    #[rustfmt::skip]
    fn all(&self) -> Vec<Method<'a>> {
        let [s0, s1, s2] = self.s;
        let [b0, b1, b2, b3, b4] = self.b;
        let (n, bytes, arguments) = (self.n, self.bytes, self.table);
        let (u8, u16, u32) = (self.u8(), self.u16(), self.u32());
        vec![
            Method::ConnectionStart(connection::Start { version_major: u8, version_minor: 9, server_properties: arguments, mechanisms: bytes, locales: b"en" }),
            Method::ConnectionStartOk(connection::StartOk { client_properties: arguments, mechanism: s0, response: bytes, locale: s1 }),
            Method::ConnectionSecure(connection::Secure { challenge: bytes }),
            Method::ConnectionSecureOk(connection::SecureOk { response: bytes }),
            Method::ConnectionTune(connection::Tune { channel_max: u16, frame_max: u32, heartbeat: u16 }),
            Method::ConnectionTuneOk(connection::TuneOk { channel_max: u16, frame_max: u32, heartbeat: u16 }),
            Method::ConnectionOpen(connection::Open { vhost: s0 }),
            Method::ConnectionOpenOk(connection::OpenOk {}),
            Method::ConnectionClose(connection::Close { reply_code: u16, reply_text: s0, class_id: 60, method_id: u16 }),
            Method::ConnectionCloseOk(connection::CloseOk {}),
            Method::ConnectionBlocked(connection::Blocked { reason: s0 }),
            Method::ConnectionUnblocked(connection::Unblocked {}),
            Method::ConnectionUpdateSecret(connection::UpdateSecret { new_secret: bytes, reason: s0 }),
            Method::ConnectionUpdateSecretOk(connection::UpdateSecretOk {}),
            Method::ChannelOpen(channel::Open {}),
            Method::ChannelOpenOk(channel::OpenOk {}),
            Method::ChannelFlow(channel::Flow { active: b0 }),
            Method::ChannelFlowOk(channel::FlowOk { active: b0 }),
            Method::ChannelClose(channel::Close { reply_code: u16, reply_text: s0, class_id: 60, method_id: u16 }),
            Method::ChannelCloseOk(channel::CloseOk {}),
            Method::AccessRequest(access::Request { realm: s0, exclusive: b0, passive: b1, active: b2, write: b3, read: b4 }),
            Method::AccessRequestOk(access::RequestOk { ticket: u16 }),
            Method::ExchangeDeclare(exchange::Declare { exchange: s0, kind: s1, passive: b0, durable: b1, auto_delete: b2, internal: b3, nowait: b4, arguments }),
            Method::ExchangeDeclareOk(exchange::DeclareOk {}),
            Method::ExchangeDelete(exchange::Delete { exchange: s0, if_unused: b0, nowait: b1 }),
            Method::ExchangeDeleteOk(exchange::DeleteOk {}),
            Method::ExchangeBind(exchange::Bind { destination: s0, source: s1, routing_key: s2, nowait: b0, arguments }),
            Method::ExchangeBindOk(exchange::BindOk {}),
            Method::ExchangeUnbind(exchange::Unbind { destination: s0, source: s1, routing_key: s2, nowait: b0, arguments }),
            Method::ExchangeUnbindOk(exchange::UnbindOk {}),
            Method::QueueDeclare(queue::Declare { queue: s0, passive: b0, durable: b1, exclusive: b2, auto_delete: b3, nowait: b4, arguments }),
            Method::QueueDeclareOk(queue::DeclareOk { queue: s0, message_count: u32, consumer_count: 7 }),
            Method::QueueBind(queue::Bind { queue: s0, exchange: s1, routing_key: s2, nowait: b0, arguments }),
            Method::QueueBindOk(queue::BindOk {}),
            Method::QueuePurge(queue::Purge { queue: s0, nowait: b0 }),
            Method::QueuePurgeOk(queue::PurgeOk { message_count: u32 }),
            Method::QueueDelete(queue::Delete { queue: s0, if_unused: b0, if_empty: b1, nowait: b2 }),
            Method::QueueDeleteOk(queue::DeleteOk { message_count: u32 }),
            Method::QueueUnbind(queue::Unbind { queue: s0, exchange: s1, routing_key: s2, arguments }),
            Method::QueueUnbindOk(queue::UnbindOk {}),
            Method::BasicQos(basic::Qos { prefetch_size: u32, prefetch_count: u16, global: b0 }),
            Method::BasicQosOk(basic::QosOk {}),
            Method::BasicConsume(basic::Consume { queue: s0, consumer_tag: s1, no_local: b0, no_ack: b1, exclusive: b2, nowait: b3, arguments }),
            Method::BasicConsumeOk(basic::ConsumeOk { consumer_tag: s0 }),
            Method::BasicCancel(basic::Cancel { consumer_tag: s0, nowait: b0 }),
            Method::BasicCancelOk(basic::CancelOk { consumer_tag: s0 }),
            Method::BasicPublish(basic::Publish { exchange: s0, routing_key: s1, mandatory: b0, immediate: b1 }),
            Method::BasicReturn(basic::Return { reply_code: u16, reply_text: s0, exchange: s1, routing_key: s2 }),
            Method::BasicDeliver(basic::Deliver { consumer_tag: s0, delivery_tag: n, redelivered: b0, exchange: s1, routing_key: s2 }),
            Method::BasicGet(basic::Get { queue: s0, no_ack: b0 }),
            Method::BasicGetOk(basic::GetOk { delivery_tag: n, redelivered: b0, exchange: s0, routing_key: s1, message_count: u32 }),
            Method::BasicGetEmpty(basic::GetEmpty {}),
            Method::BasicAck(basic::Ack { delivery_tag: n, multiple: b0 }),
            Method::BasicReject(basic::Reject { delivery_tag: n, requeue: b0 }),
            Method::BasicRecoverAsync(basic::RecoverAsync { requeue: b0 }),
            Method::BasicRecover(basic::Recover { requeue: b0 }),
            Method::BasicRecoverOk(basic::RecoverOk {}),
            Method::BasicNack(basic::Nack { delivery_tag: n, multiple: b0, requeue: b1 }),
            Method::ConfirmSelect(confirm::Select { nowait: b0 }),
            Method::ConfirmSelectOk(confirm::SelectOk {}),
            Method::TxSelect(tx::Select {}),
            Method::TxSelectOk(tx::SelectOk {}),
            Method::TxCommit(tx::Commit {}),
            Method::TxCommitOk(tx::CommitOk {}),
            Method::TxRollback(tx::Rollback {}),
            Method::TxRollbackOk(tx::RollbackOk {}),
        ]
    }
}

/// Every method's name, its number and the bytes behind that, with all bits set but the first.
#[test]
fn the_bytes_of_every_method() {
    let table = TableBuilder::new().with("k", true);
    let parts = Parts {
        s: ["aa", "b", ""],
        b: [false, true, true, true, true],
        n: 0x0102_0304_0506_0708,
        bytes: b"yy",
        table: table.as_table(),
    };
    let mut shown = String::new();
    for method in parts.all() {
        let mut bytes = Vec::new();
        method.encode(&mut bytes);
        let (class, id) = method.id();
        let hex: String = bytes[4..].iter().map(|byte| format!("{byte:02x}")).collect();
        shown += &format!("{} {class},{id} {hex}\n", method.name());
    }
    expect![[r#"
        connection.start 10,10 010900000004016b740100000002797900000002656e
        connection.start-ok 10,11 00000004016b74010261610000000279790162
        connection.secure 10,20 000000027979
        connection.secure-ok 10,21 000000027979
        connection.tune 10,30 0102050607080102
        connection.tune-ok 10,31 0102050607080102
        connection.open 10,40 0261610000
        connection.open-ok 10,41 00
        connection.close 10,50 0102026161003c0102
        connection.close-ok 10,51 
        connection.blocked 10,60 026161
        connection.unblocked 10,61 
        connection.update-secret 10,70 000000027979026161
        connection.update-secret-ok 10,71 
        channel.open 20,10 00
        channel.open-ok 20,11 00000000
        channel.flow 20,20 00
        channel.flow-ok 20,21 00
        channel.close 20,40 0102026161003c0102
        channel.close-ok 20,41 
        access.request 30,10 0261611e
        access.request-ok 30,11 0102
        exchange.declare 40,10 000002616101621e00000004016b7401
        exchange.declare-ok 40,11 
        exchange.delete 40,20 000002616102
        exchange.delete-ok 40,21 
        exchange.bind 40,30 00000261610162000000000004016b7401
        exchange.bind-ok 40,31 
        exchange.unbind 40,40 00000261610162000000000004016b7401
        exchange.unbind-ok 40,51 
        queue.declare 50,10 00000261611e00000004016b7401
        queue.declare-ok 50,11 0261610506070800000007
        queue.bind 50,20 00000261610162000000000004016b7401
        queue.bind-ok 50,21 
        queue.purge 50,30 000002616100
        queue.purge-ok 50,31 05060708
        queue.delete 50,40 000002616106
        queue.delete-ok 50,41 05060708
        queue.unbind 50,50 000002616101620000000004016b7401
        queue.unbind-ok 50,51 
        basic.qos 60,10 05060708010200
        basic.qos-ok 60,11 
        basic.consume 60,20 000002616101620e00000004016b7401
        basic.consume-ok 60,21 026161
        basic.cancel 60,30 02616100
        basic.cancel-ok 60,31 026161
        basic.publish 60,40 0000026161016202
        basic.return 60,50 0102026161016200
        basic.deliver 60,60 026161010203040506070800016200
        basic.get 60,70 000002616100
        basic.get-ok 60,71 010203040506070800026161016205060708
        basic.get-empty 60,72 00
        basic.ack 60,80 010203040506070800
        basic.reject 60,90 010203040506070800
        basic.recover-async 60,100 00
        basic.recover 60,110 00
        basic.recover-ok 60,111 
        basic.nack 60,120 010203040506070802
        confirm.select 85,10 00
        confirm.select-ok 85,11 
        tx.select 90,10 
        tx.select-ok 90,11 
        tx.commit 90,20 
        tx.commit-ok 90,21 
        tx.rollback 90,30 
        tx.rollback-ok 90,31 
    "#]]
    .assert_eq(&shown);
}

#[test]
fn bits_fill_octets_from_the_lowest() {
    let declare = Method::QueueDeclare(queue::Declare {
        queue: "q",
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: true,
        nowait: false,
        arguments: Table::EMPTY,
    });
    let mut out = Vec::new();
    frame::method(&mut out, 3, &declare);
    assert_eq!(out, b"\x01\0\x03\0\0\0\x0d\0\x32\0\x0a\0\0\x01q\x0a\0\0\0\0\xCE");
}

proptest! {
    #[test]
    fn every_method_survives_the_wire(
        strings in proptest::array::uniform3("\\PC{0,20}"),
        b in any::<[bool; 5]>(),
        n in any::<u64>(),
        bytes in vec(any::<u8>(), 0..30),
        fields in fields(),
        cut in any::<prop::sample::Index>(),
    ) {
        let table = build_table(&fields);
        let [s0, s1, s2] = &strings;
        let parts = Parts { s: [s0, s1, s2], b, n, bytes: &bytes, table: table.as_table() };
        for method in parts.all() {
            let mut encoded = Vec::new();
            method.encode(&mut encoded);
            let decoded = Method::decode(&encoded).unwrap();
            let mut again = Vec::new();
            decoded.encode(&mut again);
            prop_assert_eq!(decoded.id(), method.id());
            prop_assert_eq!(&again, &encoded);
            prop_assert!(Method::decode(&encoded[..cut.index(encoded.len())]).is_err());
            encoded.push(0);
            prop_assert!(Method::decode(&encoded).is_err(), "nothing may be left over");
        }
    }

    #[test]
    fn an_acks_short_way_is_the_same(channel in any::<u16>(), delivery_tag in any::<u64>(), multiple in any::<bool>()) {
        let (mut short, mut long) = (Vec::new(), Vec::new());
        frame::ack(&mut short, channel, delivery_tag, multiple);
        frame::method(&mut long, channel, &Method::BasicAck(basic::Ack { delivery_tag, multiple }));
        prop_assert_eq!(short, long);
    }
}
