//! Checking passwords: slow on purpose, so off the event loop, few at a time, and never twice for the same login.

use std::collections::HashSet;
use std::sync::Arc;

use broker::password::PasswordHash;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

/// Passwords hashed at the same time. Each takes 19 MiB and some 20 ms.
const CONCURRENT_MAX: usize = 2;

/// Logins that may wait for their turn; more are refused.
const WAITING_MAX: usize = 256;

/// Good logins that are remembered.
const REMEMBERED_MAX: usize = 4096;

/// Checks passwords, and remembers those that were right as digests under a key that only this process knows.
#[derive(Clone, Debug)]
pub(crate) struct Logins {
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    remembered: Arc<std::sync::Mutex<HashSet<[u8; 32]>>>,
    key: [u8; 32],
}

impl Logins {
    pub(crate) fn new(key: [u8; 32]) -> Logins {
        Logins {
            turns: Arc::new(Semaphore::new(CONCURRENT_MAX)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            remembered: Arc::default(),
            key,
        }
    }

    /// Whether `password` is right. `hash` is `None` when there is no such user, which costs and says the same.
    pub(crate) async fn verify(&self, hash: Option<PasswordHash>, password: String) -> bool {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(PasswordHash::dummy);
        let digest = self.digest(&hash, &password);
        if known && self.lock().contains(&digest) {
            return true;
        }
        let Ok(_place) = self.waiting.try_acquire() else {
            return false;
        };
        let Ok(_turn) = self.turns.acquire().await else {
            return false;
        };
        let right =
            tokio::task::spawn_blocking(move || hash.verify(&password)).await.unwrap_or(false) && known;
        if right {
            self.remember(digest);
        }
        right
    }

    fn remember(&self, digest: [u8; 32]) {
        let mut remembered = self.lock();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(digest);
    }

    /// The stored hash is part of it, so a changed password forgets by itself.
    fn digest(&self, hash: &PasswordHash, password: &str) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(self.key);
        digest.update((hash.as_str().len() as u64).to_be_bytes());
        digest.update(hash.as_str());
        digest.update(password);
        digest.finalize().into()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<[u8; 32]>> {
        self.remembered.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
