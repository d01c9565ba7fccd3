//! Checking passwords: slow on purpose, so off the event loop, few at a time, and never twice for the same login.

mod backoff;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use broker::password::PasswordHash;
use sha2::{Digest, Sha256};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, sleep};

pub(crate) use backoff::network;
use backoff::{Backoff, Toll};

/// Passwords hashed at the same time. Each takes 19 MiB and some 20 ms.
const CONCURRENT_MAX: usize = 2;

/// Different logins that may wait for their turn; more are refused.
const WAITING_MAX: usize = 256;

/// Good logins that are remembered.
const REMEMBERED_MAX: usize = 4096;

/// A user's hash and a password, under a key that only this process knows.
type LoginDigest = [u8; 32];

/// Checks passwords, and remembers those that were right as digests.
#[derive(Clone, Debug)]
pub(crate) struct Logins {
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    remembered: Arc<Mutex<HashSet<LoginDigest>>>,
    /// Logins that are being checked. Whoever comes with the same one waits for the same answer: after a restart, all
    /// clients of an application do.
    checking: Arc<Mutex<HashMap<LoginDigest, Arc<OnceCell<bool>>>>>,
    backoff: Arc<Mutex<Backoff>>,
    /// Hashes that were made in place of others, with what they came from: both are of one password.
    replaced: Arc<Mutex<HashMap<PasswordHash, PasswordHash>>>,
    key: [u8; 32],
}

/// What became of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Wrong,
    Right,
    /// Right, and of all who came with it at this time, this one is told that it was looked at.
    RightAtLast,
}

impl Logins {
    pub(crate) fn new(key: [u8; 32]) -> Logins {
        Logins {
            turns: Arc::new(Semaphore::new(CONCURRENT_MAX)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            remembered: Arc::default(),
            checking: Arc::default(),
            backoff: Arc::default(),
            replaced: Arc::default(),
            key,
        }
    }

    /// Whether `password` is right. `hash` is `None` when there is no such user, which costs and says the same.
    ///
    /// An address with many failures waits, unless it comes with what was right before.
    pub(crate) async fn verify(&self, peer: IpAddr, hash: Option<PasswordHash>, password: String) -> Verdict {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(PasswordHash::dummy);
        let digest = self.digest(&hash, &password);
        if known && lock(&self.remembered).contains(&digest) {
            return Verdict::Right;
        }
        let toll = lock(&self.backoff).toll(peer, Instant::now());
        match toll {
            Toll::None => {}
            Toll::Wait(wait) => sleep(wait).await,
            Toll::Refuse(wait) => {
                sleep(wait).await;
                return Verdict::Wrong;
            }
        }
        let check = Arc::clone(lock(&self.checking).entry(digest).or_default());
        let right = *check.get_or_init(|| self.check(hash, password)).await && known;
        if right {
            self.remember(digest);
        } else if toll == Toll::None {
            lock(&self.backoff).failed(peer, Instant::now());
        }
        let first = lock(&self.checking).remove(&digest).is_some();
        match (right, first) {
            (false, _) => Verdict::Wrong,
            (true, false) => Verdict::Right,
            (true, true) => Verdict::RightAtLast,
        }
    }

    /// A hash of `password` as hashes are made today, in place of `old`, which is weaker. `None`: not now.
    pub(crate) async fn rehash(
        &self,
        old: &PasswordHash,
        password: String,
        salt: [u8; 16],
    ) -> Option<PasswordHash> {
        let _turn = self.turns.acquire().await.ok()?;
        let hash = tokio::task::spawn_blocking(move || {
            let hash = PasswordHash::hash(&password, salt).ok()?;
            Some((hash, password))
        });
        let (hash, password) = hash.await.ok()??;
        self.remember(self.digest(&hash, &password));
        let mut replaced = lock(&self.replaced);
        if replaced.len() >= REMEMBERED_MAX {
            replaced.clear();
        }
        replaced.insert(hash.clone(), old.clone());
        Some(hash)
    }

    /// Whether both are hashes of one password, as far as is known: who logged in with one may stay with the other.
    pub(crate) fn are_of_one_password(&self, one: &PasswordHash, other: &PasswordHash) -> bool {
        let replaced = lock(&self.replaced);
        let origin = |hash| replaced.get(hash).unwrap_or(hash);
        origin(one) == origin(other)
    }

    async fn check(&self, hash: PasswordHash, password: String) -> bool {
        let Ok(_place) = self.waiting.try_acquire() else {
            return false;
        };
        let Ok(_turn) = self.turns.acquire().await else {
            return false;
        };
        tokio::task::spawn_blocking(move || hash.verify(&password)).await.unwrap_or(false)
    }

    fn remember(&self, digest: LoginDigest) {
        let mut remembered = lock(&self.remembered);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(digest);
    }

    /// The stored hash is part of it, so a changed password forgets by itself.
    fn digest(&self, hash: &PasswordHash, password: &str) -> LoginDigest {
        let mut digest = Sha256::new();
        digest.update(self.key);
        digest.update((hash.as_str().len() as u64).to_be_bytes());
        digest.update(hash.as_str());
        digest.update(password);
        digest.finalize().into()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
