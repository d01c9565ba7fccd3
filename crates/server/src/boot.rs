//! From a data directory to running owners: the meta task and the shards.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use broker::access::{Permissions, User};
use broker::definitions;
use broker::error::Error;
use broker::meta::{Change, DEFAULT_VHOST, Reply};
use broker::password::PasswordHash;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::audit::Audit;
use crate::config::Config;
use crate::descriptors::Shares;
use crate::forwarder::Forwarder;
use crate::recovery::JournalOptions;
use crate::{Failure, Fatal, meta, random, shard};

/// The user of a fresh broker, with this as its password too.
const FIRST_USER: &str = "guest";

/// The hash of that password, in RabbitMQ's form and made once and for all.
///
/// Hashing it at each first start took 25 of 30 ms and three quarters of the memory, to protect what everybody knows: a
/// slow hash with a salt of its own makes guessing dear, and here is nothing to guess. So neither the fast algorithm nor
/// the salt that all brokers share gives anything away. A login costs what every login costs, and a password that
/// somebody chooses is hashed with Argon2id and a fresh salt, also when it is this user's next one.
const FIRST_PASSWORD: (&str, &str) =
    ("aGFyZZ0XXC1KuzqeWVzLklr6D6OI9m/AZPNQ1hfOqzH8nh2n", "rabbit_password_hashing_sha256");

/// Bytes of a file of the meta journal: it is small.
pub(crate) const META_FILE_SIZE: u64 = 8 << 20;

/// Bytes that a shard's journal keeps for when the disk is full: what was taken before publishers were blocked, some
/// megabytes, and acks of a hundred thousand messages.
pub(crate) const RESERVE: u64 = 8 << 20;

/// Those who own state, running.
pub(crate) struct Owners {
    pub(crate) shards: Vec<shard::Handle>,
    pub(crate) meta: meta::Handle,
    pub(crate) tasks: Vec<JoinHandle<()>>,
}

/// Recovers everything and starts it: first the topology, which says what queues there are.
pub(crate) async fn start(
    config: &Config,
    fatal: &Fatal,
    stop: watch::Receiver<bool>,
    audit: Audit,
) -> Result<Owners, Failure> {
    let directory = config.data_dir.join("journal");
    let recovered =
        meta::recover(&directory, JournalOptions { journal: 0, file_size: META_FILE_SIZE, reserve: 0 })?;
    let count = shard_count(config, &directory)?;
    let (notices_out, notices) = unbounded_channel();
    let (to_forwarder, forwards) = unbounded_channel();
    let (mut shards, mut tasks) = (Vec::new(), Vec::new());
    let descriptors = Shares::of_process(count);
    for number in 0..count {
        let journal = u32::try_from(number + 1).map_err(|_| Failure("too many shards".to_owned()))?;
        let (handle, task) = shard::start(shard::Start {
            number,
            directory: &directory,
            segments: &config.data_dir.join("segments"),
            segments_open_max: descriptors.segments,
            journal: JournalOptions { journal, file_size: config.journal_file_size, reserve: RESERVE },
            queues: recovered.queues().filter(|(queue, _)| queue.shard(count) == number).collect(),
            notices: notices_out.clone(),
            forwarder: to_forwarder.clone(),
            fatal: fatal.clone(),
        })?;
        shards.push(handle);
        tasks.push(task);
    }
    let (meta, task) = recovered.start(shards.clone(), notices, audit, fatal.clone())?;
    tasks.push(task);
    let forwarder = Forwarder::new(shards.clone(), meta.topology());
    tasks.push(crate::spawn_owner("forwarder".to_owned(), fatal.clone(), forwarder.run(forwards, stop)));
    add_first_user(&meta).await?;
    if let Some(path) = &config.definitions {
        import(&meta, path).await?;
    }
    Ok(Owners { shards, meta, tasks })
}

/// A data directory keeps the number of shards it was made with: queues are spread by it.
fn shard_count(config: &Config, directory: &Path) -> Result<usize, Failure> {
    let path = directory.join("shards");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let Some(count) = parse_shards(&text) else {
                let what = format!("{}: expected a number of shards, found {text:?}", path.display());
                return Err(Failure(what));
            };
            if count != config.shards {
                info!(count, wanted = config.shards, "the data directory keeps its number of shards");
            }
            Ok(count)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            write_durably(&path, &format_shards(config.shards))
                .map_err(|error| Failure(format!("cannot write {}: {error}", path.display())))?;
            Ok(config.shards)
        }
        Err(error) => Err(Failure(format!("cannot read {}: {error}", path.display()))),
    }
}

/// The number of shards with a checksum, for nothing else would tell that it is another.
fn format_shards(count: usize) -> String {
    let text = format!("{count} shards");
    format!("{text}, checksum {:08x}\n", store::checksum(text.as_bytes()))
}

pub(crate) fn parse_shards(text: &str) -> Option<usize> {
    let (number, _) = text.split_once(' ').unwrap_or((text.trim_end(), ""));
    let count: usize = number.parse().ok().filter(|count| *count > 0)?;
    // Before there were checksums there was a number alone.
    let is_whole = text == format_shards(count) || text == format!("{count}\n");
    is_whole.then_some(count)
}

fn write_durably(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::File::open(&new)?.sync_all()?;
    std::fs::rename(&new, path)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(directory)?.sync_all()
}

/// A broker without users gets guest, an administrator for clients on this machine.
async fn add_first_user(meta: &meta::Handle) -> Result<(), Failure> {
    if meta.topology().borrow().access().users().next().is_some() {
        return Ok(());
    }
    let name = Arc::from(FIRST_USER);
    let password = first_password()?;
    let tags = vec![Arc::from("administrator")];
    let user = User { name: Arc::clone(&name), password, tags };
    let vhost = Arc::from(DEFAULT_VHOST);
    let permissions = Change::SetPermissions { user: name, vhost, permissions: Permissions::full() };
    // Both at once, so that they share a sync.
    let (added, permitted) = (ask(meta, Change::PutUser { user }), ask(meta, permissions));
    added.done().await?;
    permitted.done().await
}

fn first_password() -> Result<PasswordHash, Failure> {
    let (hash, algorithm) = FIRST_PASSWORD;
    Ok(PasswordHash::from_definitions(hash, algorithm)?)
}

/// Whether this is the hash of the first user's public password.
pub(crate) fn is_first_password(hash: &PasswordHash) -> bool {
    first_password().is_ok_and(|first| first == *hash)
}

/// Imports a definitions document. What is there already is kept, and replaced where the document says otherwise.
async fn import(meta: &meta::Handle, path: &Path) -> Result<(), Failure> {
    let changes = read_definitions(meta, path).await?;
    let count = changes.len();
    for change in changes {
        let changed = ask(meta, change).done().await;
        changed.map_err(|error| Failure(format!("{}: {error}", path.display())))?;
    }
    info!(file = %path.display(), count, "definitions imported");
    Ok(())
}

/// Imports the document again whenever that is wanted, until the server stops.
pub(crate) async fn import_again(
    meta: meta::Handle,
    path: PathBuf,
    wanted: Arc<Notify>,
    mut stop: watch::Receiver<bool>,
) {
    let import = async {
        loop {
            wanted.notified().await;
            import_what_can_be(&meta, &path).await;
        }
    };
    tokio::select! {
        () = import => {}
        _ = stop.changed() => {}
    }
}

/// Clients are served in the meantime and may have declared something else under the same name: what is refused does not
/// keep out what comes after it.
async fn import_what_can_be(meta: &meta::Handle, path: &Path) {
    let file = path.display();
    let changes = match read_definitions(meta, path).await {
        Ok(changes) => changes,
        Err(failure) => {
            warn!(%failure, "the definitions are not imported again");
            return;
        }
    };
    let (count, mut refused) = (changes.len(), 0);
    for change in changes {
        if let Err(failure) = ask(meta, change).done().await {
            refused += 1;
            warn!(%file, %failure, "refused");
        }
    }
    info!(%file, count, refused, "definitions imported again");
}

/// Reads a document, away from the event loop: hashing passwords takes its time.
async fn read_definitions(meta: &meta::Handle, path: &Path) -> Result<Vec<Change>, Failure> {
    let owned = path.to_owned();
    let topology = meta.topology().borrow().clone();
    // A password that is right already keeps its hash: whoever logged in with it may stay.
    let hash = move |user: &str, password: &str| match topology.access().user(user) {
        Some(user) if user.password.verify(password) => Ok(user.password.clone()),
        _ => PasswordHash::hash(password, random::bytes()),
    };
    let read = tokio::task::spawn_blocking(move || {
        let text = std::fs::read_to_string(&owned)
            .map_err(|error| Failure(format!("cannot read the definitions {}: {error}", owned.display())))?;
        definitions::parse(&text, hash).map_err(|error| Failure(format!("{}: {error}", owned.display())))
    });
    let read = read.await.map_err(|error| Failure(format!("reading definitions: {error}")))?;
    let definitions = read?;
    for key in &definitions.ignored {
        warn!(file = %path.display(), key, "not imported: this version does not know it");
    }
    Ok(definitions.changes)
}

/// A change that was asked for.
struct Asked(oneshot::Receiver<Result<Reply, Error>>);

fn ask(meta: &meta::Handle, change: Change) -> Asked {
    let (answer, answered) = oneshot::channel();
    meta.change(change, move |result| drop(answer.send(result)));
    Asked(answered)
}

impl Asked {
    /// Waits until it is committed and published, or refused.
    async fn done(self) -> Result<(), Failure> {
        let result = self.0.await.map_err(|_| Failure("the meta task has ended".to_owned()))?;
        result.map(drop).map_err(Failure::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_in_the_number_of_shards_is_noticed() {
        for count in [1, 2, 16] {
            let text = format_shards(count);
            assert_eq!(parse_shards(&text), Some(count));
            for bit in 0..text.len() * 8 {
                let mut bytes = text.clone().into_bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let flipped = String::from_utf8(bytes).ok();
                assert_eq!(flipped.and_then(|text| parse_shards(&text)), None, "bit {bit} of {text:?}");
            }
        }
        assert_eq!([parse_shards("4\n"), parse_shards("4"), parse_shards("0\n")], [Some(4), None, None]);
    }

    #[test]
    fn the_first_password_is_the_name_of_the_first_user() {
        let password = first_password().unwrap();
        assert!(password.verify(FIRST_USER));
        assert!(!password.verify("Guest") && !password.verify(""));
    }
}
