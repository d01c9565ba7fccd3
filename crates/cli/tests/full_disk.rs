//! A disk of 64 MB that publishers and others fill: publishers are blocked before there is no room, nothing that was
//! confirmed is lost, and all goes on when there is room again.
//!
//! The disk is a file with a file system of its own, mounted by `mount -o loop`, or a tmpfs of that size. Whoever may
//! mount neither skips these tests, which say so.

mod support;

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, PublisherConfirm};
use support::Broker;
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::time::{interval, timeout};

const DISK: u64 = 64 << 20;
const BODY: usize = 4096;
/// Confirms that a publisher does without.
const WINDOW: usize = 200;
/// So long after there is room publishers may wait, and no test.
const RESUME_MAX: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(60);
const QUEUE: &str = "q";

/// A file system of its own.
struct Disk {
    root: TempDir,
}

impl Disk {
    fn mount() -> Option<Disk> {
        let disk = Disk { root: tempfile::tempdir().expect("a temporary directory") };
        std::fs::create_dir(disk.path()).expect("the directory is empty");
        let run = |program: &str, arguments: &[&str]| {
            Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
        };
        let (image, path) = (disk.root.path().join("image"), disk.path());
        let (image, path) = (image.to_str()?, path.to_str()?);
        let made = File::create(image).and_then(|file| file.set_len(DISK)).is_ok();
        let looped = made
            && run("mkfs.ext4", &["-q", "-F", "-m", "0", image])
            && run("mount", &["-o", "loop", image, path]);
        let mounted = looped || run("mount", &["-t", "tmpfs", "-o", "size=64m", "leveret-test", path]);
        if !mounted {
            println!("skipped: this user can mount neither a loop device nor a tmpfs");
            return None;
        }
        println!("a disk of 64 MB: {}", if looped { "ext4 on a loop device" } else { "tmpfs" });
        Some(disk)
    }

    fn path(&self) -> PathBuf {
        self.root.path().join("disk")
    }

    fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).expect("it is mounted");
        stat.f_bavail * stat.f_frsize
    }

    /// Another process's file of so many bytes, or as many as there are.
    fn fill(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path().join(name);
        let mut file = File::create(&path).expect("there is room for a name");
        let mut left = bytes;
        for size in [1 << 16, 4096, 1] {
            while left >= size && file.write_all(&vec![1; usize::try_from(size).expect("small")]).is_ok() {
                left -= size;
            }
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) && !std::thread::panicking() {
            println!("{} is still mounted", self.path().display());
        }
    }
}

struct Publisher {
    connection: Connection,
    channel: Channel,
    next: u64,
    pending: VecDeque<(u64, PublisherConfirm)>,
    confirmed: BTreeSet<u64>,
}

async fn connect(broker: &Broker) -> (Connection, Channel) {
    let connection =
        Connection::connect(&broker.url(), ConnectionProperties::default()).await.expect("a broker");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

async fn declare(channel: &Channel) -> u32 {
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(QUEUE.into(), durable, FieldTable::default());
    declared.await.expect("a queue").message_count()
}

impl Publisher {
    async fn new(broker: &Broker, next: u64) -> Publisher {
        let (connection, channel) = connect(broker).await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let (pending, confirmed) = (VecDeque::new(), BTreeSet::new());
        Publisher { connection, channel, next, pending, confirmed }
    }

    async fn publish(&mut self) {
        let mut body = self.next.to_be_bytes().to_vec();
        body.resize(BODY, 7);
        let persistent = BasicProperties::default().with_delivery_mode(2);
        let none = BasicPublishOptions::default();
        self.next += 1;
        let sent = self.channel.basic_publish("".into(), QUEUE.into(), none, &body, persistent).await;
        self.pending.push_back((self.next - 1, sent.expect("a connection")));
    }

    async fn take_confirm(&mut self) {
        let Some((_, confirm)) = self.pending.front_mut() else { return };
        let confirmation = confirm.await.expect("a connection");
        let (number, _) = self.pending.pop_front().expect("just seen");
        if confirmation.is_ack() {
            self.confirmed.insert(number);
        }
    }

    /// Publishes until the broker says that it takes no more.
    async fn fill(&mut self) {
        let blocked = Arc::new(Notify::new());
        let (status, tell) = (self.connection.status().clone(), Arc::clone(&blocked));
        let watch = tokio::spawn(async move {
            until(|| status.blocked(), PATIENCE).await;
            tell.notify_one();
        });
        let publish = async {
            loop {
                match self.pending.len() < WINDOW {
                    true => self.publish().await,
                    false => self.take_confirm().await,
                }
            }
        };
        tokio::select! {
            () = publish => {}
            () = blocked.notified() => {}
        }
        watch.await.expect("the broker says that it takes no more");
    }

    /// All that was published is confirmed.
    async fn settle(&mut self) {
        while !self.pending.is_empty() {
            timeout(PATIENCE, self.take_confirm()).await.expect("a confirm");
        }
    }
}

/// Waits for what nobody tells.
async fn until(happened: impl Fn() -> bool, patience: Duration) {
    let mut ticks = interval(Duration::from_millis(2));
    let wait = async {
        while !happened() {
            ticks.tick().await;
        }
    };
    timeout(patience, wait).await.expect("it happens");
}

/// Takes everything out of the queue.
async fn drain(broker: &Broker) -> Vec<u64> {
    let (_connection, channel) = connect(broker).await;
    let mut found = Vec::new();
    while let Some(message) =
        channel.basic_get(QUEUE.into(), BasicGetOptions::default()).await.expect("an answer")
    {
        let number = message.delivery.data.first_chunk().expect("a number");
        assert!(
            message.delivery.data.len() == BODY && message.delivery.data[8..].iter().all(|byte| *byte == 7)
        );
        found.push(u64::from_be_bytes(*number));
        message.delivery.ack(BasicAckOptions::default()).await.expect("a connection");
    }
    assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "in order");
    found
}

fn assert_kept(confirmed: &BTreeSet<u64>, found: &[u64]) {
    let found: BTreeSet<u64> = found.iter().copied().collect();
    let lost: Vec<_> = confirmed.difference(&found).collect();
    assert!(lost.is_empty(), "{} confirmed messages are lost: {lost:?}", lost.len());
}

fn start(data: &Path, free_min: &str) -> Broker {
    Broker::start(data, &["--disk-free-min", free_min, "--journal-file-size", "4MiB"])
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_are_blocked_before_the_disk_is_full_and_go_on_when_there_is_room() {
    let Some(disk) = Disk::mount() else { return };
    let other = disk.fill("other", 24 << 20);
    let broker = start(&disk.path().join("data"), "16MiB");
    let mut publisher = Publisher::new(&broker, 0).await;
    declare(&publisher.channel).await;
    publisher.fill().await;
    let (free, before) = (disk.free(), publisher.confirmed.len());
    assert!(free > 0, "blocked with nothing left");
    assert!(before > 0, "blocked at once");
    std::fs::remove_file(other).expect("it is there");
    let begun = Instant::now();
    until(|| !publisher.connection.status().blocked(), PATIENCE).await;
    let resumed = begun.elapsed();
    publisher.settle().await;
    println!(
        "blocked with {} KiB free and {before} confirmed; unblocked {} ms after there was room",
        free >> 10,
        resumed.as_millis()
    );
    assert!(resumed < RESUME_MAX, "{resumed:?}");
    let found = drain(&broker).await;
    assert_kept(&publisher.confirmed, &found);
    assert_eq!(found.len() as u64, publisher.next, "all was confirmed in the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_takes_the_last_byte_and_the_broker_restarts_while_the_disk_is_full() {
    let Some(disk) = Disk::mount() else { return };
    let data = disk.path().join("data");
    let broker = start(&data, "0");
    let mut publisher = Publisher::new(&broker, 0).await;
    declare(&publisher.channel).await;
    for _ in 0..100 {
        publisher.publish().await;
    }
    publisher.settle().await;
    let other = disk.fill("other", DISK);
    assert_eq!(disk.free(), 0);
    publisher.fill().await;
    let confirmed_full = publisher.confirmed.len();
    // Consumers are served; what they ack has room left.
    let (_connection, channel) = connect(&broker).await;
    let first = channel.basic_get(QUEUE.into(), BasicGetOptions::default()).await.expect("an answer");
    let first = first.expect("messages wait");
    first.delivery.ack(BasicAckOptions::default()).await.expect("a connection");
    broker.kill();

    let broker = start(&data, "0");
    let (_connection, channel) = connect(&broker).await;
    let waiting = declare(&channel).await;
    assert!(waiting as usize >= confirmed_full - 1, "{waiting} of {confirmed_full}");
    let mut again = Publisher::new(&broker, publisher.next).await;
    again.fill().await;
    std::fs::remove_file(&other).expect("it is there");
    let begun = Instant::now();
    until(|| !again.connection.status().blocked(), PATIENCE).await;
    let resumed = begun.elapsed();
    again.settle().await;
    println!(
        "full: {confirmed_full} confirmed before, {waiting} there after a restart; unblocked {} ms after there was room",
        resumed.as_millis()
    );
    assert!(resumed < RESUME_MAX, "{resumed:?}");
    let found = drain(&broker).await;
    let mut confirmed = publisher.confirmed;
    confirmed.remove(&0);
    confirmed.extend(again.confirmed);
    assert_kept(&confirmed, &found);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_that_gets_room_again_goes_on_without_a_restart() {
    let Some(disk) = Disk::mount() else { return };
    let broker = start(&disk.path().join("data"), "0");
    let mut publisher = Publisher::new(&broker, 0).await;
    declare(&publisher.channel).await;
    // Nobody else: the publisher itself takes all there is.
    publisher.fill().await;
    let confirmed = publisher.confirmed.len();
    // What consumers take makes room.
    let (_connection, channel) = connect(&broker).await;
    let mut taken = BTreeSet::new();
    while publisher.connection.status().blocked() {
        let Some(message) =
            channel.basic_get(QUEUE.into(), BasicGetOptions::default()).await.expect("an answer")
        else {
            break;
        };
        taken.insert(u64::from_be_bytes(*message.delivery.data.first_chunk().expect("a number")));
        message.delivery.ack(BasicAckOptions::default()).await.expect("a connection");
    }
    println!("full with {confirmed} confirmed; {} were taken until there was room", taken.len());
    until(|| !publisher.connection.status().blocked(), PATIENCE).await;
    publisher.settle().await;
    let mut found: Vec<u64> = taken.into_iter().collect();
    found.extend(drain(&broker).await);
    assert_kept(&publisher.confirmed, &found);
}
