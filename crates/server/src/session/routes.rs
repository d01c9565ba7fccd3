//! Where messages go, remembered: as long as the topology stays, an exchange and a key lead to the same queues.

use std::collections::HashMap;

use super::outgoing::Route;

/// Routes that a session remembers.
const ROUTES_MAX: usize = 1024;

/// The routes of one version of the topology that this user may publish to.
#[derive(Debug, Default)]
pub(super) struct Routes {
    version: u64,
    /// The one asked for last: publishers repeat themselves.
    last: Option<Last>,
    /// By exchange and routing key, joined.
    all: HashMap<String, Route>,
    joined: String,
}

#[derive(Debug)]
struct Last {
    exchange: String,
    routing_key: String,
    route: Route,
}

impl Routes {
    /// The route of a message, if it is known.
    pub(super) fn get(&mut self, version: u64, exchange: &str, routing_key: &str) -> Option<&Route> {
        if self.version != version {
            self.forget(version);
            return None;
        }
        let same = |last: &Last| last.routing_key == routing_key && last.exchange == exchange;
        if !self.last.as_ref().is_some_and(same) {
            join(&mut self.joined, exchange, routing_key);
            let route = self.all.get(&self.joined)?.clone();
            self.last =
                Some(Last { exchange: exchange.to_owned(), routing_key: routing_key.to_owned(), route });
        }
        self.last.as_ref().map(|last| &last.route)
    }

    /// Remembers a route.
    pub(super) fn put(&mut self, exchange: &str, routing_key: &str, route: Route) {
        if self.all.len() >= ROUTES_MAX {
            self.forget(self.version);
        }
        join(&mut self.joined, exchange, routing_key);
        self.all.insert(self.joined.clone(), route);
    }

    fn forget(&mut self, version: u64) {
        self.version = version;
        self.last = None;
        self.all.clear();
    }
}

/// The length goes first, so that no other pair joins to the same string.
fn join(out: &mut String, exchange: &str, routing_key: &str) {
    out.clear();
    out.extend(u8::try_from(exchange.len()).map(char::from));
    out.push_str(exchange);
    out.push_str(routing_key);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_route_is_remembered_until_the_topology_changes() {
        let (one, two): (Route, Route) = (Arc::from(Vec::new()), Arc::from(Vec::new()));
        let mut routes = Routes::default();
        assert!(routes.get(1, "x", "a").is_none());
        routes.put("x", "a", one.clone());
        assert!(routes.get(1, "xa", "").is_none(), "another pair with the same letters");
        routes.put("xa", "", two.clone());
        for _ in 0..2 {
            assert!(Arc::ptr_eq(routes.get(1, "x", "a").unwrap(), &one));
            assert!(Arc::ptr_eq(routes.get(1, "xa", "").unwrap(), &two));
        }
        assert!(routes.get(1, "", "xa").is_none());
        assert!(routes.get(2, "x", "a").is_none());
        assert!(routes.get(2, "x", "a").is_none());
    }
}
