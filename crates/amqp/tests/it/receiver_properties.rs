//! What holds for every stream of frames: however it is cut, it says the same.

use amqp::receiver::{Limits, Receiver, Side};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::peer::{LIMITS, Peer, receive_all, server_receiver};

/// One thing that a peer may send, right or wrong.
#[derive(Clone, Debug)]
enum Send {
    Open(u16),
    Close(u16),
    CloseOk(u16),
    Ack(u16),
    Publish(u16, usize),
    PublishMethod(u16),
    Header(u16, u64),
    Body(u16, usize),
    Heartbeat,
    Raw(Vec<u8>),
}

fn send() -> impl Strategy<Value = Send> {
    let channel = || 1..4_u16;
    prop_oneof![
        3 => channel().prop_map(Send::Open),
        1 => channel().prop_map(Send::Close),
        1 => channel().prop_map(Send::CloseOk),
        2 => channel().prop_map(Send::Ack),
        6 => (channel(), prop_oneof![0..50_usize, 4000..4200_usize, 0..11_000_usize])
            .prop_map(|(channel, size)| Send::Publish(channel, size)),
        1 => channel().prop_map(Send::PublishMethod),
        1 => (channel(), 0..20_u64).prop_map(|(channel, size)| Send::Header(channel, size)),
        1 => (channel(), 0..20_usize).prop_map(|(channel, size)| Send::Body(channel, size)),
        1 => Just(Send::Heartbeat),
        1 => vec(any::<u8>(), 0..12).prop_map(Send::Raw),
    ]
}

fn bytes_of(sends: &[Send]) -> Vec<u8> {
    let peer = (1..4).fold(Peer::new(), Peer::open);
    let send = |peer: Peer, send: &Send| match send {
        Send::Open(channel) => peer.close(*channel).open(*channel),
        Send::Close(channel) => peer.close(*channel).open(*channel),
        Send::CloseOk(channel) => peer.close_ok(*channel),
        Send::Ack(channel) => peer.ack(*channel, 1),
        Send::Publish(channel, size) => peer.publish(*channel, &pattern(*size)),
        Send::PublishMethod(channel) => peer.publish_method(*channel),
        Send::Header(channel, size) => peer.header(*channel, 60, *size, &[0, 0]),
        Send::Body(channel, size) => peer.body(*channel, &pattern(*size)),
        Send::Heartbeat => peer.frame(8, 0, b""),
        Send::Raw(bytes) => peer.raw(bytes),
    };
    sends.iter().fold(peer, send).0
}

fn pattern(size: usize) -> Vec<u8> {
    (0..=250).cycle().take(size).collect()
}

/// The frames of messages on several channels, shuffled but in order on each channel.
fn interleave(bodies: &[Vec<usize>], picks: &[prop::sample::Index]) -> (Vec<u8>, usize) {
    let mut waiting: Vec<Vec<Vec<u8>>> = Vec::new();
    let mut count = 0;
    for (channel, sizes) in (1..).zip(bodies) {
        let mut frames = Vec::new();
        for size in sizes {
            let body = pattern(*size);
            frames.push(Peer::new().publish_method(channel).0);
            let announced = u64::try_from(*size).unwrap();
            frames.push(Peer::new().header(channel, 60, announced, &[0, 0]).0);
            frames.extend(body.chunks(100).map(|piece| Peer::new().body(channel, piece).0));
            count += 1;
        }
        frames.reverse();
        waiting.push(frames);
    }
    let mut bytes = (1..=u16::try_from(bodies.len()).unwrap()).fold(Peer::new(), Peer::open).0;
    let mut picks = picks.iter().cycle();
    while waiting.iter().any(|frames| !frames.is_empty()) {
        waiting.retain(|frames| !frames.is_empty());
        let index = picks.next().map_or(0, |pick| pick.index(waiting.len()));
        bytes.extend(waiting[index].pop().unwrap_or_default());
    }
    (bytes, count)
}

proptest! {
    #[test]
    fn every_split_says_the_same(
        sends in vec(send(), 0..12),
        cuts in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let bytes = bytes_of(&sends);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let whole = receive_all(&mut server_receiver(), &bytes, &[]);
        prop_assert_eq!(&receive_all(&mut server_receiver(), &bytes, &cuts), &whole);
        let every_byte: Vec<_> = (0..bytes.len().min(3000)).collect();
        prop_assert_eq!(&receive_all(&mut server_receiver(), &bytes, &every_byte), &whole);
    }

    #[test]
    fn channels_do_not_disturb_each_other(
        bodies in vec(vec(0..500_usize, 0..4), 1..5),
        picks in vec(any::<prop::sample::Index>(), 1..60),
    ) {
        let (bytes, count) = interleave(&bodies, &picks);
        let mut receiver = Receiver::new(Side::Server, Limits { frame_max: 4096, ..LIMITS });
        let said = receive_all(&mut receiver, &bytes, &[]);
        let messages: Vec<_> = said.iter().filter(|line| line.contains("basic.publish")).collect();
        prop_assert_eq!(messages.len(), count, "{:?}", said);
        for (channel, sizes) in (1..).zip(&bodies) {
            let of_channel: Vec<_> =
                messages.iter().filter(|line| line.starts_with(&format!("{channel}:"))).collect();
            prop_assert_eq!(of_channel.len(), sizes.len());
            for (line, size) in of_channel.iter().zip(sizes) {
                let expected = format!(" {size} bytes");
                prop_assert!(line.contains(&expected), "{} {}", line, size);
            }
        }
        prop_assert_eq!(receiver.buffered_size(), 0, "nothing is left behind");
    }
}
