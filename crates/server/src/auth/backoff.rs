//! Back-off after failed logins: an address that guesses gets slower and slower answers, others notice nothing.
//!
//! Each address has a bucket. A failure pours [`COST`] into it, and it drains as time goes by. While there are more than
//! [`FREE`] failures in it, each further attempt waits until the bucket has drained so far, right or wrong alike; one
//! that would have to wait longer than [`WAIT_MAX`] is refused without a look at the password, after that time. So an
//! address gets [`FREE`] guesses, and then a hundred a minute.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

/// Failures that an address may have in a short time and not be slowed.
const FREE: u32 = 20;

/// How long it takes until a failure is forgiven.
const COST: Duration = Duration::from_millis(600);

/// Longest wait of a login, well within the time for a handshake.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Addresses with failures that are remembered, the most recent ones.
const ADDRESSES_MAX: usize = 4096;

/// What a login has to do before its password is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Toll {
    /// Nothing.
    None,
    /// Wait. The attempt counts as a failure already.
    Wait(Duration),
    /// Wait, and be refused.
    Refuse(Duration),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// When the bucket of each address will be empty.
    empty_at: HashMap<IpAddr, Instant>,
}

impl Backoff {
    /// An attempt from `peer` begins.
    pub(super) fn toll(&mut self, peer: IpAddr, now: Instant) -> Toll {
        let Some(empty_at) = self.empty_at.get_mut(&network(peer)) else { return Toll::None };
        let wait = empty_at.saturating_duration_since(now).saturating_sub(FREE * COST);
        if wait.is_zero() {
            return Toll::None;
        }
        if wait > WAIT_MAX {
            return Toll::Refuse(WAIT_MAX);
        }
        *empty_at += COST;
        Toll::Wait(wait)
    }

    /// An attempt that did not pay a toll has failed.
    pub(super) fn failed(&mut self, peer: IpAddr, now: Instant) {
        if self.empty_at.len() >= ADDRESSES_MAX {
            self.make_room(now);
        }
        let empty_at = self.empty_at.entry(network(peer)).or_insert(now);
        *empty_at = (*empty_at).max(now) + COST;
    }

    /// Forgets those whose failures are forgiven, and if there are none, the one that has least of them.
    fn make_room(&mut self, now: Instant) {
        self.empty_at.retain(|_, empty_at| *empty_at > now);
        if self.empty_at.len() >= ADDRESSES_MAX
            && let Some((least, _)) = self.empty_at.iter().min_by_key(|(_, empty_at)| **empty_at)
        {
            let least = *least;
            self.empty_at.remove(&least);
        }
    }
}

/// What counts as one address: with IPv6, whoever has one address has 2^64 of them.
pub(crate) fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            if address.is_loopback() { peer } else { Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into() }
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn peer(number: u32) -> IpAddr {
        Ipv4Addr::from(number).into()
    }

    #[test]
    fn who_guesses_waits_and_others_do_not() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        for _ in 0..FREE {
            assert_eq!(backoff.toll(peer(1), now), Toll::None);
            backoff.failed(peer(1), now);
        }
        assert_eq!(backoff.toll(peer(1), now), Toll::None, "exactly so many are free");
        backoff.failed(peer(1), now);
        assert_eq!(backoff.toll(peer(1), now), Toll::Wait(COST));
        assert_eq!(backoff.toll(peer(1), now), Toll::Wait(2 * COST), "at the same time: one after the other");
        assert_eq!(backoff.toll(peer(2), now), Toll::None);
        let refused = (0..100).filter(|_| backoff.toll(peer(1), now) == Toll::Refuse(WAIT_MAX)).count();
        assert_eq!(refused, 94, "waits grow to five seconds and no longer");
    }

    #[test]
    fn failures_are_forgiven() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        for _ in 0..2 * FREE {
            backoff.failed(peer(1), now);
        }
        assert_eq!(backoff.toll(peer(1), now), Toll::Refuse(WAIT_MAX));
        assert_eq!(backoff.toll(peer(1), now + (FREE - 1) * COST), Toll::Wait(COST));
        assert_eq!(backoff.toll(peer(1), now + (FREE + 1) * COST), Toll::None);
    }

    #[test]
    fn a_minute_of_guessing_is_a_hundred_guesses() {
        let (mut backoff, start) = (Backoff::default(), Instant::now());
        let (mut now, mut checked) = (start, 0);
        while now < start + Duration::from_secs(60) {
            match backoff.toll(peer(1), now) {
                Toll::None => backoff.failed(peer(1), now),
                Toll::Wait(wait) => now += wait,
                Toll::Refuse(wait) => {
                    now += wait;
                    continue;
                }
            }
            checked += 1;
        }
        assert!((100..=100 + FREE + 2).contains(&checked), "{checked}");
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_worst() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        for _ in 0..=FREE {
            backoff.failed(peer(0), now);
        }
        for number in 1..=2 * u32::try_from(ADDRESSES_MAX).unwrap() {
            backoff.failed(peer(number), now);
            assert!(backoff.empty_at.len() <= ADDRESSES_MAX);
        }
        assert_eq!(backoff.toll(peer(0), now), Toll::Wait(COST));
        backoff.failed(peer(1), now + FREE * COST + FREE * COST);
        assert_eq!(backoff.empty_at.len(), 1, "the others are forgiven");
    }

    #[test]
    fn addresses_of_one_network_are_one() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3::1"), of("2001:db8:1:2::9"));
        assert_ne!(of("2001:db8:1:3::1"), of("2001:db8:1:2::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
