//! How many connections addresses, users and virtual hosts have, and how many channels.
//!
//! No single one of them gets the last tenth of what this node can serve, unless its own limit says so: whatever goes wild,
//! others can still come in and look.
//!
//! One place for all connections. It is looked at when a connection or a channel opens or closes, and never for a message.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use broker::error::Error;
use broker::limits::{UserLimits, VhostLimits};
use broker::topology::Topology;

use crate::auth::network;

/// Counts those who are in.
#[derive(Clone, Debug)]
pub(crate) struct Census {
    /// Connections that one address, user or virtual host may have, unless something else is said.
    share: u64,
    counts: Arc<Mutex<Counts>>,
}

/// No count is of nothing.
#[derive(Debug, Default)]
struct Counts {
    addresses: HashMap<IpAddr, u64>,
    vhosts: HashMap<Arc<str>, u64>,
    users: HashMap<Arc<str>, OfUser>,
}

#[derive(Clone, Copy, Debug, Default)]
struct OfUser {
    connections: u64,
    channels: u64,
}

/// A socket that is counted, until this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    census: Census,
    network: IpAddr,
}

/// A connection that is counted with its channels, until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    census: Census,
    user: Arc<str>,
    vhost: Arc<str>,
    /// The numbers of its channels.
    channels: Vec<u16>,
}

impl Census {
    /// For a node that serves so many connections.
    pub(crate) fn new(connections_max: usize) -> Census {
        let share = (connections_max - connections_max / 10) as u64;
        Census { share, counts: Arc::default() }
    }

    /// Counts one more socket, before anybody knows whose it is. `None`: its address has enough of them.
    pub(crate) fn seat(&self, peer: IpAddr) -> Option<Seat> {
        let network = network(peer);
        let mut counts = self.lock();
        let seats = counts.addresses.entry(network).or_default();
        (*seats < self.share).then(|| *seats += 1)?;
        Some(Seat { census: self.clone(), network })
    }

    /// Counts one more connection.
    ///
    /// # Errors
    /// 530 if the virtual host or the user may not have it.
    pub(crate) fn enter(
        &self,
        topology: &Topology,
        user: &Arc<str>,
        vhost: &Arc<str>,
    ) -> Result<Place, Error> {
        let mut counts = self.lock();
        let in_vhost = counts.vhosts.get(vhost).copied().unwrap_or_default();
        let of_user = counts.users.get(user).copied().unwrap_or_default();
        let (share, limits) = (Some(self.share), topology.find_vhost(vhost)?.limits());
        let limits = VhostLimits { connections_max: limits.connections_max.or(share), ..limits };
        limits.admit_connection(vhost, user, in_vhost)?;
        let limits = topology.access().limits(user);
        let limits = UserLimits { connections_max: limits.connections_max.or(share), ..limits };
        limits.admit_connection(user, of_user.connections)?;
        *counts.vhosts.entry(Arc::clone(vhost)).or_default() += 1;
        counts.users.entry(Arc::clone(user)).or_default().connections += 1;
        let (user, vhost) = (Arc::clone(user), Arc::clone(vhost));
        Ok(Place { census: self.clone(), user, vhost, channels: Vec::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Counts one more channel.
    ///
    /// # Errors
    /// 530 if the user may not have it.
    pub(crate) fn open_channel(&mut self, topology: &Topology, number: u16) -> Result<(), Error> {
        let mut counts = self.census.lock();
        let of_user = counts.users.entry(Arc::clone(&self.user)).or_default();
        topology.access().limits(&self.user).admit_channel(&self.user, of_user.channels)?;
        of_user.channels += 1;
        self.channels.push(number);
        Ok(())
    }

    /// A channel is over, if it is one of those that are counted.
    pub(crate) fn close_channel(&mut self, number: u16) {
        let Some(at) = self.channels.iter().position(|channel| *channel == number) else { return };
        self.channels.swap_remove(at);
        if let Some(of_user) = self.census.lock().users.get_mut(&self.user) {
            of_user.channels -= 1;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.census.lock().addresses.entry(self.network) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.census.lock();
        if let Entry::Occupied(mut entry) = counts.vhosts.entry(Arc::clone(&self.vhost)) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
        if let Entry::Occupied(mut entry) = counts.users.entry(Arc::clone(&self.user)) {
            let of_user = entry.get_mut();
            of_user.connections -= 1;
            of_user.channels -= self.channels.len() as u64;
            if of_user.connections == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use broker::access::User;
    use broker::meta::{Change, Meta};
    use broker::password::PasswordHash;

    fn limited() -> Meta {
        let user = User { name: "u".into(), password: PasswordHash::none(), tags: Vec::new() };
        let of_user = UserLimits { connections_max: Some(2), channels_max: Some(3) };
        let of_vhost = VhostLimits { connections_max: Some(3), queues_max: None };
        let mut meta = Meta::new();
        for change in [
            Change::AddVhost { name: "v".into() },
            Change::PutUser { user },
            Change::SetUserLimits { user: "u".into(), limits: of_user },
            Change::SetVhostLimits { vhost: "/".into(), limits: of_vhost },
        ] {
            let decision = meta.decide(change).unwrap();
            decision.records.iter().for_each(|record| drop(meta.apply(record)));
        }
        meta
    }

    #[test]
    fn places_up_to_the_limits_and_again_when_one_is_free() {
        let (census, meta) = (Census::new(1000), limited());
        let enter = |user: &str, vhost: &str| {
            census.enter(meta.topology(), &user.into(), &vhost.into()).map_err(|error| error.text)
        };
        let (first, _second) = (enter("u", "/").unwrap(), enter("u", "v").unwrap());
        let full = "connection refused for user 'u': user connection limit (2) is reached";
        assert_eq!(enter("u", "/").unwrap_err(), full);
        let others = [enter("w", "/").unwrap(), enter("w", "/").unwrap()];
        let full = "access to vhost '/' refused for user 'w': connection limit (3) is reached";
        assert_eq!(enter("w", "/").unwrap_err(), full);
        assert!(enter("w", "v").is_ok());
        drop(first);
        assert!(enter("u", "/").is_ok());
        drop(others);
    }

    #[test]
    fn the_last_tenth_is_for_others() {
        let (census, meta) = (Census::new(10), limited());
        let seat = |peer: &str| census.seat(peer.parse().unwrap());
        let mut seats: Vec<_> = (0..9).map(|_| seat("10.0.0.1").unwrap()).collect();
        assert!(seat("10.0.0.1").is_none() && seat("10.0.0.2").is_some());
        seats.pop();
        assert!(seat("10.0.0.1").is_some(), "a place is free");
        let same: Vec<_> = (0..9).map(|host| seat(&format!("2001:db8::{host}")).unwrap()).collect();
        assert!(seat("2001:db8::ffff").is_none() && seat("2001:db8:0:1::1").is_some());
        drop((seats, same));
        assert!(census.lock().addresses.is_empty());

        let enter = |user: &str, vhost: &str| {
            census.enter(meta.topology(), &user.into(), &vhost.into()).map_err(|error| error.text)
        };
        let _places: Vec<_> = (0..9).map(|_| enter("w", "v").unwrap()).collect();
        let full = "access to vhost 'v' refused for user 'x': connection limit (9) is reached";
        assert_eq!(enter("x", "v").unwrap_err(), full);
        let full = "connection refused for user 'w': user connection limit (9) is reached";
        assert_eq!(enter("w", "/").unwrap_err(), full);
        assert!(enter("x", "/").is_ok());
    }

    #[test]
    fn channels_of_all_connections_count_until_they_end() {
        let (census, meta) = (Census::new(1000), limited());
        let enter = || census.enter(meta.topology(), &"u".into(), &"/".into()).unwrap();
        let (mut one, mut other) = (enter(), enter());
        let open = |place: &mut Place, number| place.open_channel(meta.topology(), number).is_ok();
        assert!(open(&mut one, 1) && open(&mut one, 2) && open(&mut other, 1) && !open(&mut other, 2));
        one.close_channel(2);
        one.close_channel(2);
        one.close_channel(9);
        assert!(open(&mut other, 2) && !open(&mut other, 3));
        drop(other);
        assert!(open(&mut one, 2) && open(&mut one, 3) && !open(&mut one, 4));
        drop(one);
        assert!(census.lock().users.is_empty() && census.lock().vhosts.is_empty());
    }
}
