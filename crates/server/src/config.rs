//! What a server is told at start: validated, with nothing left to interpret.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A server's configuration. `Config::new` is what `leveret serve` runs without any options.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything durable is. Created if there is none.
    pub data_dir: PathBuf,
    /// Where AMQP clients connect; port 0: any free one.
    pub amqp: SocketAddr,
    /// Where AMQP clients connect with TLS, if anywhere.
    pub tls: Option<Tls>,
    /// A RabbitMQ definitions document (JSON), imported at start, and again by [`Reload`](crate::Reload).
    pub definitions: Option<PathBuf>,
    /// Users that may only connect from this machine.
    pub loopback_users: Vec<String>,
    /// Message shards: units of ordering, durability and CPU.
    pub shards: usize,
    /// Bytes of a journal file. A journal is shortened once it has four.
    pub journal_file_size: u64,
    /// Product name that clients see.
    pub product: String,
    /// Version that clients see.
    pub version: String,
    /// Name of the cluster that clients see.
    pub cluster_name: String,
    /// What clients may take.
    pub limits: Limits,
}

/// A listener with TLS. All files are PEM, and are read again when they change.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Where it listens; port 0: any free one.
    pub address: SocketAddr,
    /// The server's certificate, then those that link it to a root.
    pub certificate: PathBuf,
    /// The private key that goes with the certificate.
    pub key: PathBuf,
    /// Who signs certificates of clients. `None`: clients are not asked for any.
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is refused.
    pub client_required: bool,
    /// What in a client's certificate is its login name.
    pub login_from: LoginFrom,
}

/// What in a certificate is a login name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LoginFrom {
    /// All of the subject, as in `CN=shop,O=Hare`.
    #[default]
    DistinguishedName,
    /// The subject's one common name.
    CommonName,
}

/// Limits. Each has a test at the limit.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections of this node.
    pub connections_max: usize,
    /// Channels of a connection; 0: 65535.
    pub channel_max: u16,
    /// Bytes of a frame; 0: no limit.
    pub frame_max: u32,
    /// Bytes of a message's body.
    pub message_size_max: u64,
    /// Seconds between heartbeats that the server suggests; 0: none.
    pub heartbeat_s: u16,
    /// How long a client may take to log in and open its virtual host.
    pub handshake_timeout: Duration,
    /// How long a consumer may hold a message, unless it or its queue says otherwise; `None`: for ever.
    pub consumer_timeout: Option<Duration>,
    /// Bytes that messages may take in memory before publishers are blocked.
    pub message_bytes_max: u64,
    /// Bytes that must be free on the disk, or publishers are blocked.
    pub disk_free_min: u64,
}

impl Config {
    /// The defaults, with everything durable in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Config {
        Config {
            data_dir: data_dir.into(),
            amqp: SocketAddr::from(([127, 0, 0, 1], 5672)),
            tls: None,
            definitions: None,
            loopback_users: vec!["guest".to_owned()],
            shards: std::thread::available_parallelism().map_or(1, usize::from).min(64),
            journal_file_size: 32 << 20,
            product: "Leveret".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_name: "leveret".to_owned(),
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 65_536,
            channel_max: 2047,
            frame_max: 131_072,
            message_size_max: 16 << 20,
            heartbeat_s: 60,
            handshake_timeout: Duration::from_secs(10),
            consumer_timeout: Some(Duration::from_secs(30 * 60)),
            message_bytes_max: memory_bytes() / 10 * 4,
            disk_free_min: 256 << 20,
        }
    }
}

/// Memory of this machine, or of the cgroup if that is less.
fn memory_bytes() -> u64 {
    let machine = rustix::system::sysinfo();
    let machine = machine.totalram.saturating_mul(machine.mem_unit.into());
    let cgroup = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = cgroup.iter().filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok());
    limits.chain([machine]).min().unwrap_or(machine)
}
