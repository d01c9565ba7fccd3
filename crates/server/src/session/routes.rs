//! Where messages go, remembered: as long as the topology stays, an exchange and a key lead to the same queues.

use std::collections::HashMap;

use broker::id::QueueId;

use super::outgoing::Route;

/// Routes that a session remembers.
const ROUTES_MAX: usize = 1024;

/// Of these, how many are found without hashing in earnest: publishers repeat themselves.
const RECENT: usize = 64;

/// The routes of one version of the topology that this user may publish to.
#[derive(Debug, Default)]
pub(super) struct Routes {
    version: u64,
    /// By a few bytes of the routing key. Empty until something is remembered.
    recent: Vec<Option<Known>>,
    all: HashMap<Names, Route>,
    /// By the queues they lead to, for messages whose way is found anew each time: those that go to the same queues share
    /// a route, and so travel together.
    by_queues: HashMap<Box<[QueueId]>, Route>,
}

/// Exchange and routing key, two adjacent short strings.
type Names = Box<[u8]>;

#[derive(Debug)]
struct Known {
    names: Names,
    route: Route,
}

impl Routes {
    /// The route of a message, if it is known.
    #[inline]
    pub(super) fn get(&mut self, version: u64, names: &[u8]) -> Option<&Route> {
        if self.version != version {
            self.forget(version);
            return None;
        }
        let place = place(names);
        if self.recent.get(place)?.as_ref().is_none_or(|known| *known.names != *names) {
            let route = self.all.get(names)?.clone();
            self.recent[place] = Some(Known { names: names.into(), route });
        }
        self.recent[place].as_ref().map(|known| &known.route)
    }

    /// Remembers a route.
    pub(super) fn put(&mut self, names: &[u8], route: Route) {
        if self.all.len() >= ROUTES_MAX {
            self.forget(self.version);
        }
        self.all.insert(names.into(), route.clone());
        self.recent.resize_with(RECENT, || None);
        self.recent[place(names)] = Some(Known { names: names.into(), route });
    }

    /// The route to these queues, made by `make` unless it is known.
    pub(super) fn to(&mut self, version: u64, queues: &[QueueId], make: impl FnOnce() -> Route) -> Route {
        if self.version != version {
            self.forget(version);
        }
        if let Some(route) = self.by_queues.get(queues) {
            return route.clone();
        }
        if self.by_queues.len() >= ROUTES_MAX {
            self.by_queues.clear();
        }
        let route = make();
        self.by_queues.insert(queues.into(), route.clone());
        route
    }

    fn forget(&mut self, version: u64) {
        self.version = version;
        self.recent.clear();
        self.all.clear();
        self.by_queues.clear();
    }
}

/// Keys that differ mostly differ at their end.
#[inline]
fn place(names: &[u8]) -> usize {
    let last = names.last_chunk().map_or(0, |last: &[u8; 2]| u16::from_be_bytes(*last));
    (usize::from(last) * 5 + names.len()) % RECENT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::outgoing::Path;
    use std::sync::Arc;

    fn route() -> Route {
        Arc::new(Path::default())
    }

    #[test]
    fn the_same_queues_are_the_same_route() {
        let make = || route();
        let mut routes = Routes::default();
        let [one, two] = [[QueueId(1)], [QueueId(2)]].map(|queues| routes.to(1, &queues, make));
        assert!(!Arc::ptr_eq(&one, &two));
        assert!(Arc::ptr_eq(&routes.to(1, &[QueueId(1)], make), &one));
        assert!(!Arc::ptr_eq(&routes.to(2, &[QueueId(1)], make), &one));
        for number in 0..2 * ROUTES_MAX as u64 {
            routes.to(2, &[QueueId(number)], make);
            assert!(routes.by_queues.len() <= ROUTES_MAX);
        }
    }

    #[test]
    fn a_route_is_remembered_until_the_topology_changes() {
        let (one, two) = (route(), route());
        let mut routes = Routes::default();
        assert!(routes.get(1, b"\x01x\x01a").is_none());
        routes.put(b"\x01x\x01a", one.clone());
        assert!(routes.get(1, b"\x02xa\0").is_none(), "another pair with the same letters");
        routes.put(b"\x02xa\0", two.clone());
        for _ in 0..2 {
            assert!(Arc::ptr_eq(routes.get(1, b"\x01x\x01a").unwrap(), &one));
            assert!(Arc::ptr_eq(routes.get(1, b"\x02xa\0").unwrap(), &two));
        }
        assert!(routes.get(1, b"\0\x02xa").is_none());
        assert!(routes.get(2, b"\x01x\x01a").is_none());
        assert!(routes.get(2, b"\x01x\x01a").is_none());
    }

    #[test]
    fn keys_that_share_a_place_are_not_mixed_up() {
        let mut routes = Routes::default();
        assert!(routes.get(1, b"").is_none());
        let all: Vec<(String, Route)> = (0..200).map(|number| (format!("{number}-same"), route())).collect();
        all.iter().for_each(|(key, route)| routes.put(key.as_bytes(), route.clone()));
        for (key, route) in all.iter().chain(&all) {
            assert!(Arc::ptr_eq(routes.get(1, key.as_bytes()).unwrap(), route), "{key}");
        }
    }
}
