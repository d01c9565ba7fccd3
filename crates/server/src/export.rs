//! Definitions from a data directory, whether its broker runs or not.

use std::path::Path;
use std::time::Duration;

use broker::definitions::{Exported, export};
use broker::meta::Meta;
use store::{Damage, RealDisk};

use crate::Failure;
use crate::topology_log::Replay;

/// How often a journal that is being written to is read again, and how long after.
const LOOKS_MAX: usize = 100;
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Writes as definitions what is durable in a data directory: what a restart would find there. Nothing in it is changed.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn definitions(data_dir: &Path) -> Result<Exported, Failure> {
    let directory = data_dir.join("journal").join("meta");
    if !directory.is_dir() {
        return Err(Failure(format!("{} is no data directory: it has no journal/meta", data_dir.display())));
    }
    let (meta, damaged) = settled(|| look(&directory))?;
    let mut exported = export(meta.topology());
    exported.lost.extend(damaged.iter().map(|damage| {
        let Damage { file, offset, from, to, why } = damage;
        format!("perhaps what is at {from} up to {to} of the meta journal, {file}, byte {offset}: {why}")
    }));
    Ok(exported)
}

/// Reads the meta journal once.
fn look(directory: &Path) -> store::Result<(Meta, Vec<Damage>)> {
    let mut replay = Replay::default();
    let report = store::read(&RealDisk, directory, 0, &mut |record| replay.visit(&record))?;
    Ok((replay.finish().recovered(), report.damaged))
}

/// What a broker is writing, or removing, right now looks damaged or cannot be read, and otherwise a moment later. What two
/// looks find wrong in the same way is wrong.
fn settled(
    mut look: impl FnMut() -> store::Result<(Meta, Vec<Damage>)>,
) -> store::Result<(Meta, Vec<Damage>)> {
    let mut before = look();
    for _ in 0..LOOKS_MAX {
        if matches!(&before, Ok((_, damaged)) if damaged.is_empty()) {
            break;
        }
        std::thread::sleep(LOOK_AGAIN);
        let now = look();
        let same = match (&before, &now) {
            (Ok((_, before)), Ok((_, now))) => before == now,
            (Err(before), Err(now)) => before == now,
            _ => false,
        };
        before = now;
        if same {
            break;
        }
    }
    before
}

#[cfg(test)]
mod tests {
    use store::Lsn;

    use super::*;

    fn damage(offset: u64) -> Vec<Damage> {
        let (from, to) = (Lsn(offset), Lsn(offset + 1));
        vec![Damage { file: "f".to_owned(), offset, from, to, why: "because".to_owned() }]
    }

    fn gone(file: &str) -> store::Error {
        store::Error::new(store::Kind::Disk, format!("cannot open {file}"))
    }

    /// What comes of these looks, and how many there were.
    fn settle(looks: Vec<store::Result<Vec<Damage>>>) -> (store::Result<Vec<Damage>>, usize) {
        let count = looks.len();
        let mut looks = looks.into_iter();
        let found = settled(|| looks.next().unwrap().map(|damaged| (Meta::new(), damaged)));
        (found.map(|(_, damaged)| damaged), count - looks.len())
    }

    #[test]
    fn what_changes_is_looked_at_again() {
        assert_eq!(settle(vec![Ok(vec![])]), (Ok(vec![]), 1));
        let looks = vec![Ok(damage(1)), Err(gone("a")), Err(gone("b")), Ok(damage(2)), Ok(vec![])];
        assert_eq!(settle(looks), (Ok(vec![]), 5));
    }

    #[test]
    fn what_stays_wrong_is_wrong() {
        assert_eq!(settle(vec![Ok(damage(2)), Ok(damage(1)), Ok(damage(1))]), (Ok(damage(1)), 3));
        assert_eq!(settle(vec![Err(gone("a")), Err(gone("a"))]), (Err(gone("a")), 2));
        let for_ever = (0..=LOOKS_MAX as u64).map(|number| Ok(damage(number))).collect();
        assert_eq!(settle(for_ever).1, LOOKS_MAX + 1);
    }
}
