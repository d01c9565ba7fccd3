//! Configuration as it is written: on the command line, in the environment, in `leveret.toml`. The first of them that
//! says something counts; what none says has a default.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use serde::Deserialize;
use server::config::{Config, Limits, LoginFrom, Tls};

/// Where data goes unless somebody says otherwise.
pub(crate) const DATA_DIR: &str = "./leveret-data";

/// Where TLS is spoken unless somebody says otherwise.
const AMQPS_PORT: u16 = 5671;

/// Bytes of a name that clients are told.
const NAME_SIZE_MAX: usize = 255;

/// All options. Each is a flag, a variable `LEVERET_…` and a key of the configuration file.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Written {
    /// Directory for everything durable [default: ./leveret-data]
    #[arg(long, env = "LEVERET_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Where AMQP clients connect; port 0 picks a free one [default: 127.0.0.1:5672]
    #[arg(long, env = "LEVERET_AMQP", value_name = "HOST:PORT")]
    amqp: Option<String>,

    /// Where AMQP clients connect with TLS [default: port 5671 beside --amqp, if there is a certificate]
    #[arg(long, env = "LEVERET_AMQPS", value_name = "HOST:PORT")]
    amqps: Option<String>,

    /// Certificate for TLS with its chain, in PEM; read again when it changes, and on SIGHUP
    #[arg(long, env = "LEVERET_TLS_CERTIFICATE", value_name = "FILE")]
    tls_certificate: Option<PathBuf>,

    /// Private key of the certificate, in PEM
    #[arg(long, env = "LEVERET_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// Who signs certificates of clients, in PEM; clients are asked for one, and may log in by it (EXTERNAL)
    #[arg(long, env = "LEVERET_TLS_CLIENT_CA", value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,

    /// Refuse clients without a certificate [default: false]
    #[arg(long, env = "LEVERET_TLS_CLIENT_REQUIRED", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    tls_client_required: Option<bool>,

    /// What in a client's certificate is its user: distinguished-name or common-name [default: distinguished-name]
    #[arg(long, env = "LEVERET_TLS_LOGIN_FROM", value_name = "PART")]
    tls_login_from: Option<String>,

    /// RabbitMQ definitions (JSON) to import at start, and again on SIGHUP
    #[arg(long, env = "LEVERET_DEFINITIONS", value_name = "FILE")]
    definitions: Option<PathBuf>,

    /// Users that may only connect from this machine, comma-separated [default: guest]
    #[arg(long, env = "LEVERET_LOOPBACK_USERS", value_name = "USERS", value_delimiter = ',')]
    loopback_users: Option<Vec<String>>,

    /// Product that clients are told they talk to; some switch on it, such as to RabbitMQ [default: Leveret]
    #[arg(long, env = "LEVERET_COMPAT_PRODUCT", value_name = "NAME")]
    compat_product: Option<String>,

    /// Version that goes with the product, such as 3.10.8 [default: Leveret's own]
    #[arg(long, env = "LEVERET_COMPAT_VERSION", value_name = "VERSION")]
    compat_version: Option<String>,

    /// Message shards of a new data directory, 1 to 64 [default: number of cores]
    #[arg(long, env = "LEVERET_SHARDS", value_name = "COUNT")]
    shards: Option<usize>,

    /// Size of a journal file, at least 1MiB [default: 32MiB]
    #[arg(long, env = "LEVERET_JOURNAL_FILE_SIZE", value_name = "BYTES")]
    journal_file_size: Option<Size>,

    /// Connections [default: 65536]
    #[arg(long, env = "LEVERET_CONNECTIONS_MAX", value_name = "COUNT")]
    connections_max: Option<usize>,

    /// Channels of one connection, 1 to 65535 [default: 2047]
    #[arg(long, env = "LEVERET_CHANNEL_MAX", value_name = "COUNT")]
    channel_max: Option<u16>,

    /// Largest frame, 4096 to 1MiB [default: 128KiB]
    #[arg(long, env = "LEVERET_FRAME_MAX", value_name = "BYTES")]
    frame_max: Option<Size>,

    /// Largest message body, at most 512MiB [default: 16MiB]
    #[arg(long, env = "LEVERET_MESSAGE_SIZE_MAX", value_name = "BYTES")]
    message_size_max: Option<Size>,

    /// Seconds between heartbeats; 0 turns them off [default: 60]
    #[arg(long, env = "LEVERET_HEARTBEAT", value_name = "SECONDS")]
    heartbeat: Option<u16>,

    /// Seconds that a client may take to log in [default: 10]
    #[arg(long, env = "LEVERET_HANDSHAKE_TIMEOUT", value_name = "SECONDS")]
    handshake_timeout: Option<u64>,

    /// Seconds that a consumer may hold a message without an ack; 0: for ever [default: 1800]
    #[arg(long, env = "LEVERET_CONSUMER_TIMEOUT", value_name = "SECONDS")]
    consumer_timeout: Option<u64>,

    /// Memory that messages may take before publishers are blocked [default: 40 % of the machine's]
    #[arg(long, env = "LEVERET_MEMORY_MAX", value_name = "BYTES")]
    memory_max: Option<Size>,

    /// Free disk space below which publishers are blocked [default: 256MiB]
    #[arg(long, env = "LEVERET_DISK_FREE_MIN", value_name = "BYTES")]
    disk_free_min: Option<Size>,
}

/// A number of bytes, with or without a unit: `1048576`, `1024KiB`, `1MiB`, `2GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(u64);

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim() {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            other => return Err(format!("unknown unit '{other}': expected B, KiB, MiB or GiB")),
        };
        let number: u64 =
            number.parse().map_err(|_| format!("'{text}' is not a number of bytes, such as 64MiB"))?;
        let bytes = number.checked_mul(1 << shift).ok_or_else(|| format!("'{text}' is too large"))?;
        Ok(Size(bytes))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u64),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Number(bytes) => Ok(Size(bytes)),
            Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl Written {
    /// Reads a configuration file.
    pub(crate) fn read(path: &Path) -> Result<Written> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Written::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    fn parse(text: &str) -> Result<Written> {
        let table = flat(toml::from_str(text)?);
        for key in table.keys() {
            if !KEYS.contains(&key.as_str()) {
                bail!("unknown key '{key}'; did you mean '{}'?", nearest(key));
            }
        }
        Ok(table.try_into()?)
    }

    /// What this says, and where it says nothing, what `other` says.
    pub(crate) fn or(self, other: Written) -> Written {
        Written {
            data_dir: self.data_dir.or(other.data_dir),
            amqp: self.amqp.or(other.amqp),
            amqps: self.amqps.or(other.amqps),
            tls_certificate: self.tls_certificate.or(other.tls_certificate),
            tls_key: self.tls_key.or(other.tls_key),
            tls_client_ca: self.tls_client_ca.or(other.tls_client_ca),
            tls_client_required: self.tls_client_required.or(other.tls_client_required),
            tls_login_from: self.tls_login_from.or(other.tls_login_from),
            definitions: self.definitions.or(other.definitions),
            loopback_users: self.loopback_users.or(other.loopback_users),
            compat_product: self.compat_product.or(other.compat_product),
            compat_version: self.compat_version.or(other.compat_version),
            shards: self.shards.or(other.shards),
            journal_file_size: self.journal_file_size.or(other.journal_file_size),
            connections_max: self.connections_max.or(other.connections_max),
            channel_max: self.channel_max.or(other.channel_max),
            frame_max: self.frame_max.or(other.frame_max),
            message_size_max: self.message_size_max.or(other.message_size_max),
            heartbeat: self.heartbeat.or(other.heartbeat),
            handshake_timeout: self.handshake_timeout.or(other.handshake_timeout),
            consumer_timeout: self.consumer_timeout.or(other.consumer_timeout),
            memory_max: self.memory_max.or(other.memory_max),
            disk_free_min: self.disk_free_min.or(other.disk_free_min),
        }
    }

    /// What it means: checked, with defaults.
    pub(crate) fn mean(self) -> Result<Config> {
        let mut config = Config::new(self.data_dir.clone().unwrap_or_else(|| DATA_DIR.into()));
        if let Some(amqp) = &self.amqp {
            config.amqp = address("amqp", amqp)?;
        }
        config.tls = self.mean_tls(config.amqp)?;
        config.definitions = self.definitions;
        config.loopback_users = self.loopback_users.unwrap_or(config.loopback_users);
        config.product = name("compat-product", self.compat_product.unwrap_or(config.product))?;
        config.version = name("compat-version", self.compat_version.unwrap_or(config.version))?;
        config.shards = within("shards", self.shards.unwrap_or(config.shards), 1, 64)?;
        let file_size = self.journal_file_size.map_or(config.journal_file_size, |size| size.0);
        config.journal_file_size = within("journal-file-size", file_size, 1 << 20, 1 << 40)?;
        let defaults = Limits::default();
        let bytes = |size: Option<Size>, default: u64| size.map_or(default, |size| size.0);
        let frame_max = within("frame-max", bytes(self.frame_max, defaults.frame_max.into()), 4096, 1 << 20)?;
        config.limits = Limits {
            connections_max: within(
                "connections-max",
                self.connections_max.unwrap_or(defaults.connections_max),
                1,
                1 << 20,
            )?,
            channel_max: within(
                "channel-max",
                self.channel_max.unwrap_or(defaults.channel_max),
                1,
                u16::MAX,
            )?,
            frame_max: u32::try_from(frame_max)?,
            message_size_max: within(
                "message-size-max",
                bytes(self.message_size_max, defaults.message_size_max),
                1,
                512 << 20,
            )?,
            heartbeat_s: self.heartbeat.unwrap_or(defaults.heartbeat_s),
            handshake_timeout: match self.handshake_timeout {
                Some(seconds) => Duration::from_secs(within("handshake-timeout", seconds, 1, 3600)?),
                None => defaults.handshake_timeout,
            },
            consumer_timeout: match self.consumer_timeout {
                Some(0) => None,
                Some(seconds) => {
                    Some(Duration::from_secs(within("consumer-timeout", seconds, 1, 31_536_000)?))
                }
                None => defaults.consumer_timeout,
            },
            message_bytes_max: within(
                "memory-max",
                bytes(self.memory_max, defaults.message_bytes_max),
                1 << 20,
                u64::MAX,
            )?,
            disk_free_min: bytes(self.disk_free_min, defaults.disk_free_min),
        };
        Ok(config)
    }
}

impl Written {
    /// What the keys about TLS mean together. `amqp` is where clients without TLS connect.
    fn mean_tls(&self, amqp: SocketAddr) -> Result<Option<Tls>> {
        let (Some(certificate), Some(key)) = (&self.tls_certificate, &self.tls_key) else {
            let said = [
                ("amqps", self.amqps.is_some()),
                ("tls-certificate", self.tls_certificate.is_some()),
                ("tls-key", self.tls_key.is_some()),
                ("tls-client-ca", self.tls_client_ca.is_some()),
                ("tls-client-required", self.tls_client_required.is_some()),
                ("tls-login-from", self.tls_login_from.is_some()),
            ];
            if let Some((key, _)) = said.iter().find(|(_, is_said)| *is_said) {
                bail!("{key} is there, but TLS needs both tls-certificate and tls-key");
            }
            return Ok(None);
        };
        let client_required = self.tls_client_required.unwrap_or(false);
        if client_required && self.tls_client_ca.is_none() {
            bail!("tls-client-required needs tls-client-ca, to know which certificates are good");
        }
        Ok(Some(Tls {
            address: match &self.amqps {
                Some(amqps) => address("amqps", amqps)?,
                None => SocketAddr::new(amqp.ip(), AMQPS_PORT),
            },
            certificate: certificate.clone(),
            key: key.clone(),
            client_ca: self.tls_client_ca.clone(),
            client_required,
            login_from: match self.tls_login_from.as_deref() {
                None | Some("distinguished-name") => LoginFrom::DistinguishedName,
                Some("common-name") => LoginFrom::CommonName,
                Some(other) => {
                    bail!("tls-login-from is '{other}', expected distinguished-name or common-name")
                }
            },
        }))
    }
}

/// All keys of the configuration file.
const KEYS: [&str; 23] = [
    "data-dir",
    "amqp",
    "amqps",
    "tls-certificate",
    "tls-key",
    "tls-client-ca",
    "tls-client-required",
    "tls-login-from",
    "definitions",
    "loopback-users",
    "compat-product",
    "compat-version",
    "shards",
    "journal-file-size",
    "connections-max",
    "channel-max",
    "frame-max",
    "message-size-max",
    "heartbeat",
    "handshake-timeout",
    "consumer-timeout",
    "memory-max",
    "disk-free-min",
];

/// A key in a table is the key with the table's name before it: `compat.product` is `compat-product`.
fn flat(table: toml::Table) -> toml::Table {
    let mut all = toml::Table::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => {
                all.extend(flat(inner).into_iter().map(|(last, value)| (format!("{key}-{last}"), value)));
            }
            value => drop(all.insert(key, value)),
        }
    }
    all
}

/// Something that clients are told: one short line.
fn name(key: &str, text: String) -> Result<String> {
    if text.is_empty() || text.len() > NAME_SIZE_MAX || text.contains(char::is_control) {
        bail!("{key} is '{}', expected 1 to {NAME_SIZE_MAX} bytes on one line", text.escape_debug());
    }
    Ok(text)
}

fn within<T: Copy + PartialOrd + std::fmt::Display>(key: &str, value: T, min: T, max: T) -> Result<T> {
    if value < min || value > max {
        bail!("{key} is {value}, expected {min} to {max}");
    }
    Ok(value)
}

fn address(key: &str, text: &str) -> Result<SocketAddr> {
    let wrong = || anyhow!("{key} is '{text}', expected HOST:PORT such as 127.0.0.1:5672");
    let mut found = text.to_socket_addrs().with_context(wrong)?;
    found.next().ok_or_else(wrong)
}

/// The key that is fewest edits away.
fn nearest(key: &str) -> &'static str {
    let found = KEYS.iter().min_by_key(|known| distance(key, known));
    found.expect("there are keys")
}

/// Levenshtein's distance.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.chars().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        format!("{:#}", Written::parse(text).and_then(Written::mean).unwrap_err())
    }

    #[test]
    fn who_says_nothing_listens_on_loopback_only() {
        let config = Written::default().mean().unwrap();
        assert!(config.amqp.ip().is_loopback() && config.tls.is_none());
    }

    #[test]
    fn a_file_says_what_it_means() {
        let text =
            "data-dir = '/d'\namqp = '127.0.0.1:1'\nframe-max = '8KiB'\nmemory-max = 1048576\nshards = 3";
        let config = Written::parse(text).and_then(Written::mean).unwrap();
        assert_eq!((config.data_dir, config.amqp.port(), config.shards), ("/d".into(), 1, 3));
        assert_eq!((config.limits.frame_max, config.limits.message_bytes_max), (8192, 1 << 20));
        assert_eq!(config.limits.channel_max, 2047, "a default");
        assert_eq!(config.product, "Leveret", "a default");
    }

    #[test]
    fn the_identity_is_what_it_is_told_to_be() {
        for text in [
            "compat.product = 'RabbitMQ'\ncompat.version = '3.10.8'",
            "[compat]\nproduct = 'RabbitMQ'\nversion = '3.10.8'",
            "compat-product = 'RabbitMQ'\ncompat-version = '3.10.8'",
        ] {
            let config = Written::parse(text).and_then(Written::mean).unwrap();
            assert_eq!((&*config.product, &*config.version), ("RabbitMQ", "3.10.8"));
        }
        assert_eq!(error("compat.product = ''"), "compat-product is '', expected 1 to 255 bytes on one line");
        assert_eq!(
            error("compat.version = \"4\\n\""),
            "compat-version is '4\\n', expected 1 to 255 bytes on one line"
        );
        let longest = "v".repeat(255);
        assert!(Written::parse(&format!("compat.version = '{longest}'")).and_then(Written::mean).is_ok());
        assert!(error(&format!("compat.version = '{longest}v'")).contains("expected 1 to 255 bytes"));
        assert_eq!(
            error("compat.produkt = 'x'"),
            "unknown key 'compat-produkt'; did you mean 'compat-product'?"
        );
    }

    #[test]
    fn tls_is_where_a_certificate_is() {
        let tls = |text: &str| Written::parse(text).and_then(Written::mean).unwrap().tls;
        assert!(tls("").is_none());
        let both = "tls.certificate = 'c'\ntls.key = 'k'\n";
        let plain = tls(&format!("amqp = '127.0.0.2:5672'\n{both}")).unwrap();
        assert_eq!(plain.address.to_string(), "127.0.0.2:5671");
        assert!(plain.client_ca.is_none() && plain.login_from == LoginFrom::DistinguishedName);
        let more = "amqps = '127.0.0.1:1'\n[tls]\ncertificate = 'c'\nkey = 'k'\nclient-ca = 'a'\nclient-required = true\nlogin-from = 'common-name'";
        let more = tls(more).unwrap();
        assert_eq!(
            (more.address.port(), more.client_required, more.login_from),
            (1, true, LoginFrom::CommonName)
        );
        let missing = "is there, but TLS needs both tls-certificate and tls-key";
        assert_eq!(error("amqps = '127.0.0.1:1'"), format!("amqps {missing}"));
        assert_eq!(error("tls.key = 'k'"), format!("tls-key {missing}"));
        assert!(error(&format!("{both}tls.client-required = true")).contains("needs tls-client-ca"));
        assert!(
            error(&format!("{both}tls.login-from = 'x'"))
                .contains("expected distinguished-name or common-name")
        );
    }

    #[test]
    fn mistakes_are_named_and_the_nearest_key_is_suggested() {
        assert_eq!(error("ampq = 'x'"), "unknown key 'ampq'; did you mean 'amqp'?");
        assert_eq!(error("data_dir = 'x'"), "unknown key 'data_dir'; did you mean 'data-dir'?");
        assert_eq!(error("shards = 65"), "shards is 65, expected 1 to 64");
        assert!(error("frame-max = '8KB'").contains("unknown unit 'KB'"));
        assert!(error("amqp = 'nowhere'").contains("expected HOST:PORT"));
        assert!(error("heartbeat = 'x'").contains("heartbeat"));
    }

    #[test]
    fn every_option_is_a_known_key() {
        let command = Written::augment_args(clap::Command::new("x"));
        let flags: Vec<_> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
        assert_eq!(flags, KEYS);
        for argument in command.get_arguments() {
            let name = format!("LEVERET_{}", argument.get_long().unwrap().replace('-', "_").to_uppercase());
            assert_eq!(argument.get_env().and_then(|env| env.to_str()), Some(&*name));
        }
    }

    #[test]
    fn what_comes_first_counts() {
        let written = |text| Written::parse(text).unwrap();
        let config = written("shards = 2").or(written("shards = 5\nheartbeat = 7")).mean().unwrap();
        assert_eq!((config.shards, config.limits.heartbeat_s), (2, 7));
    }
}
