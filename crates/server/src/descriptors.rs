//! Who may have how many file descriptors: connections never take those that storage needs.

use rustix::process::{Resource, getrlimit};

/// What the runtime, listeners, the lock and the like need.
const OTHERS: usize = 32;

/// A journal's files at once, and those of its segments beside the ones that are kept open.
const JOURNAL: usize = 8;

/// Segments that a shard keeps open to write, and as many to read.
const SEGMENTS_MAX: usize = 64;
const SEGMENTS_MIN: usize = 2;

/// How descriptors are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Connections at once.
    pub(crate) connections: usize,
    /// Segments that a shard keeps open to write, and as many to read.
    pub(crate) segments: usize,
}

impl Shares {
    /// Of what this process may open.
    pub(crate) fn of_process(shards: usize) -> Shares {
        let limit = getrlimit(Resource::Nofile).current;
        Shares::of(limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)), shards)
    }

    /// Storage gets what it likes to have, or half of what there is.
    fn of(limit: usize, shards: usize) -> Shares {
        let fixed = OTHERS + JOURNAL * (shards + 1);
        let wanted = fixed + 2 * SEGMENTS_MAX * shards;
        let reserve = wanted.min((limit / 2).max(fixed + 2 * SEGMENTS_MIN * shards));
        let segments = (reserve - fixed) / (2 * shards.max(1));
        Shares {
            connections: limit.saturating_sub(reserve),
            segments: segments.clamp(SEGMENTS_MIN, SEGMENTS_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_storage_what_it_needs() {
        let shares = |limit, shards| {
            let Shares { connections, segments } = Shares::of(limit, shards);
            (connections, segments)
        };
        assert_eq!(shares(1 << 20, 2), ((1 << 20) - 312, 64));
        assert_eq!(shares(1024, 2), (712, 64));
        assert_eq!(shares(256, 1), (128, 40));
        assert_eq!(shares(256, 4), (128, 7));
        assert_eq!(shares(64, 4).1, 2);
    }
}
