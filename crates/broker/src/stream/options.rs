//! What a stream was declared with.

use crate::topology::{Queue, Settings};

/// A segment is never larger than this, whatever was asked for.
const SEGMENT_SIZE_MAX: u64 = 16 << 20;
/// Nor smaller: each costs a file.
const SEGMENT_SIZE_MIN: u64 = 4 << 10;
/// Bytes of the filter of a piece, unless asked otherwise.
const FILTER_SIZE: usize = 16;

/// What a shard must know of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How errors name it: `queue 'q' in vhost '/'`.
    pub label: String,
    /// What is kept.
    pub retention: Retention,
    /// Bytes after which a segment is full.
    pub segment_size: u64,
    /// Bytes of a bloom filter.
    pub filter_size: usize,
}

/// What a stream keeps; nothing set is everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Younger than this, milliseconds.
    pub age_ms: Option<u64>,
    /// No more than this, bytes.
    pub bytes: Option<u64>,
    /// No more than this, messages.
    pub count: Option<u64>,
}

impl Options {
    /// Keeps everything.
    pub fn new(label: String) -> Options {
        Options {
            label,
            retention: Retention::default(),
            segment_size: SEGMENT_SIZE_MAX,
            filter_size: FILTER_SIZE,
        }
    }

    /// What the arguments of a stream and the policies for it come to.
    pub fn of(queue: &Queue, settings: &Settings) -> Options {
        let mut options = Options::new(queue.label());
        options.configure(settings);
        options
    }

    /// The policies say something new.
    pub(crate) fn configure(&mut self, settings: &Settings) {
        self.retention = Retention {
            age_ms: settings.max_age_ms,
            bytes: settings.max_length_bytes,
            count: settings.max_length,
        };
        let size = settings.segment_size.unwrap_or(SEGMENT_SIZE_MAX);
        self.segment_size = size.clamp(SEGMENT_SIZE_MIN, SEGMENT_SIZE_MAX);
        let filter = settings.filter_size.and_then(|size| usize::try_from(size).ok());
        self.filter_size = filter.unwrap_or(FILTER_SIZE);
    }
}

/// A length of time as `x-max-age` and `x-stream-offset` have it, in milliseconds: a number above 0 and one of `Y`, `M`,
/// `D`, `h`, `m`, `s`. A year has 365 days and a month 30, as with RabbitMQ.
pub fn age_ms(text: &str) -> Option<u64> {
    let unit = text.chars().next_back()?;
    let seconds: u64 = match unit {
        'Y' => 365 * 86_400,
        'M' => 30 * 86_400,
        'D' => 86_400,
        'h' => 3600,
        'm' => 60,
        's' => 1,
        _ => return None,
    };
    let digits = text.strip_suffix(unit)?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let count: u64 = digits.parse().ok().filter(|count| plain && *count > 0)?;
    count.checked_mul(seconds)?.checked_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::age_ms;

    #[test]
    fn ages() {
        let ages = ["1s", "2m", "3h", "1D", "1M", "1Y"].map(|text| age_ms(text).unwrap() / 1000);
        assert_eq!(ages, [1, 120, 10_800, 86_400, 2_592_000, 31_536_000]);
        for wrong in [
            "",
            "s",
            "1",
            "0s",
            "-1h",
            "+1h",
            "1x",
            "1 h",
            "h1",
            "99999999999999999999s",
            "9999999999999Y",
            "1µ",
        ] {
            assert_eq!(age_ms(wrong), None, "{wrong}");
        }
    }
}
