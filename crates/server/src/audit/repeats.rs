//! Logins that are repeated: the first is written, further ones are counted and written once a minute.
//!
//! So neither a client that connects for every message nor one that guesses passwords fills the log and pushes out of it
//! what matters.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Login;

/// For how long repeated logins are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Kinds of logins that are told apart; all others are one kind.
const KINDS_MAX: usize = 4096;

/// From one address, and if it was right, of one user: who guesses makes up names, too.
type Kind = (IpAddr, Option<Arc<str>>);

#[derive(Debug, Default)]
pub(super) struct Repeats(HashMap<Kind, Counted>);

#[derive(Debug)]
struct Counted {
    /// The last one.
    login: Login,
    since: Instant,
    /// Not written yet.
    times: u64,
}

impl Repeats {
    /// Whether this is to be written; if not, it is counted.
    pub(super) fn is_first(&mut self, login: &Login, now: Instant) -> bool {
        let mut login = login.clone();
        let mut kind = (login.peer, login.right.then(|| Arc::clone(&login.user)));
        if self.0.len() >= KINDS_MAX && !self.0.contains_key(&kind) {
            login.peer = Ipv4Addr::UNSPECIFIED.into();
            kind = (login.peer, None);
        }
        if let Some(counted) = self.0.get_mut(&kind) {
            counted.times += 1;
            counted.login = login;
            return false;
        }
        self.0.insert(kind, Counted { login, since: now, times: 0 });
        true
    }

    /// Takes what was counted for long enough, with how often; without `now` all of it.
    pub(super) fn take_due(&mut self, now: Option<Instant>) -> Vec<(Login, u64)> {
        let mut due = Vec::new();
        self.0.retain(|_, counted| {
            if now.is_some_and(|now| now - counted.since < WINDOW) {
                return true;
            }
            if counted.times > 0 {
                due.push((counted.login.clone(), counted.times));
            }
            counted.since = now.unwrap_or(counted.since);
            // Who has come again is still counted.
            std::mem::take(&mut counted.times) > 0
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(peer: u32, user: &str, right: bool) -> Login {
        Login { user: user.into(), peer: Ipv4Addr::from(peer).into(), right }
    }

    #[test]
    fn the_first_is_written_and_others_are_counted() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        assert!(repeats.is_first(&login(1, "a", true), start));
        assert!(repeats.is_first(&login(1, "b", true), start), "another user");
        assert!(repeats.is_first(&login(1, "a", false), start), "a wrong password");
        for number in 0..1000 {
            assert!(!repeats.is_first(&login(1, "a", true), start));
            assert!(!repeats.is_first(&login(1, &format!("guess {number}"), false), start));
        }
        assert!(repeats.is_first(&login(2, "a", false), start), "another address");
        assert_eq!(repeats.take_due(Some(start)).len(), 0);
        let mut due = repeats.take_due(Some(start + WINDOW));
        due.sort_by_key(|(login, _)| login.right);
        let story: Vec<_> = due.iter().map(|(login, times)| (&*login.user, login.right, *times)).collect();
        assert_eq!(story, [("guess 999", false, 1000), ("a", true, 1000)]);
        assert!(!repeats.is_first(&login(1, "a", true), start + WINDOW), "it goes on");
        assert_eq!(repeats.take_due(Some(start + 2 * WINDOW)).len(), 1);
        assert_eq!(repeats.take_due(Some(start + 3 * WINDOW)).len(), 0);
        assert!(repeats.0.is_empty());
    }

    #[test]
    fn many_addresses_are_one() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let peers = 1..=u32::try_from(2 * KINDS_MAX).unwrap();
        let first = peers.filter(|peer| repeats.is_first(&login(*peer, "a", false), now));
        assert_eq!(first.count(), KINDS_MAX + 1);
        assert_eq!(repeats.take_due(None)[0].1, KINDS_MAX as u64 - 1);
    }
}
