//! The files of the audit log: lines that hang on each other.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::Failure;

/// The file that is written.
const NAME: &str = "audit.log";

/// Bytes of a file, after which the next one begins.
const FILE_SIZE: u64 = 8 << 20;

/// Files before the one that is written: `audit.log.1` is the newest of them. Older ones go.
const OLD_FILES: usize = 4;

/// Letters of a hash.
const HASH_LEN: usize = 64;

/// What follows the part of a line that is hashed.
const HASH_KEY: &str = ",\"hash\":\"";
const LINE_END: &str = "\"}";

/// What the first line of all hangs on.
fn origin() -> String {
    "0".repeat(HASH_LEN)
}

/// What a line says, beside its time and its hashes.
pub(super) type Fields = Vec<(&'static str, Value)>;

/// The end of the chain, to be made longer.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    file: std::fs::File,
    size: u64,
    size_max: u64,
    /// Hash of the last line.
    last: String,
    /// Something is not durable yet.
    dirty: bool,
}

impl File {
    /// Goes on where the log in this directory ends. A line that a crash has cut off is taken away.
    pub(super) fn open(data_dir: &Path) -> io::Result<File> {
        let path = data_dir.join(NAME);
        let mut options = OpenOptions::new();
        let file = options.append(true).read(true).create(true).mode(0o600).open(&path)?;
        let text = std::fs::read(&path)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let size = whole as u64;
        if whole < text.len() {
            file.set_len(size)?;
        }
        // A line that is none leaves a gap in the chain, which is for `verify` to find.
        let line = text[..whole].trim_ascii_end().rsplit(|byte| *byte == b'\n').next();
        let last = line.and_then(|line| Some(Line::parse(line)?.hash.to_owned()));
        let last = match last {
            Some(last) => last,
            // The next line is the first of a new file.
            None => newest_hash(&old(&path, 1)).unwrap_or_else(origin),
        };
        Ok(File { path, file, size, size_max: FILE_SIZE, last, dirty: false })
    }

    /// Adds a line. After an error it is as if it had not been tried.
    pub(super) fn append(&mut self, fields: Fields) -> io::Result<()> {
        if self.size >= self.size_max {
            self.rotate()?;
        }
        let (line, hash) = line(SystemTime::now(), fields, &self.last);
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            self.file.set_len(self.size)?;
            return Err(error);
        }
        self.size += line.len() as u64;
        self.last = hash;
        self.dirty = true;
        Ok(())
    }

    /// Makes durable what was added.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.dirty) { self.file.sync_data() } else { Ok(()) }
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.sync()?;
        for number in (1..OLD_FILES).rev().filter(|number| old(&self.path, *number).exists()) {
            std::fs::rename(old(&self.path, number), old(&self.path, number + 1))?;
        }
        if self.path.exists() {
            std::fs::rename(&self.path, old(&self.path, 1))?;
        }
        let mut options = OpenOptions::new();
        self.file = options.append(true).create(true).mode(0o600).open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn old(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn newest_hash(path: &Path) -> Option<String> {
    let text = std::fs::read(path).ok()?;
    let line = text.trim_ascii_end().rsplit(|byte| *byte == b'\n').next()?;
    Some(Line::parse(line)?.hash.to_owned())
}

/// A line with its end, and its hash.
fn line(now: SystemTime, fields: Fields, previous: &str) -> (String, String) {
    let mut line = format!("{{\"time\":\"{}\"", utc(now));
    for (key, value) in fields {
        let _ = write!(line, ",\"{key}\":{value}");
    }
    let _ = write!(line, ",\"previous\":\"{previous}\"");
    let hash = hash(line.as_bytes());
    let _ = writeln!(line, "{HASH_KEY}{hash}{LINE_END}");
    (line, hash)
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(HASH_LEN), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `2026-11-23T07:40:00Z`.
fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March here, so that the leap day is the last of its year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + carry;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A line in its parts.
struct Line<'a> {
    hashed: &'a [u8],
    hash: &'a str,
}

impl Line<'_> {
    fn parse(line: &[u8]) -> Option<Line<'_>> {
        let end = line.strip_suffix(LINE_END.as_bytes())?;
        let (rest, hash) = end.split_at_checked(end.len().checked_sub(HASH_LEN)?)?;
        let hashed = rest.strip_suffix(HASH_KEY.as_bytes())?;
        Some(Line { hashed, hash: std::str::from_utf8(hash).ok()? })
    }

    fn follows(&self, previous: &str) -> bool {
        self.hashed.ends_with(format!(",\"previous\":\"{previous}\"").as_bytes())
    }
}

/// An audit log that nobody has tampered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Lines of all files.
    pub lines: u64,
    /// Hash of the newest: who has noted it can tell later that nothing was cut off.
    pub last: String,
}

/// Checks every line of the audit log in a data directory. A broker may be using it.
///
/// # Errors
/// Where the first line is that was changed, or does not follow the one before it; a file cannot be read.
pub fn verify(data_dir: &Path) -> Result<Verified, Failure> {
    let path = data_dir.join(NAME);
    let mut files: Vec<_> = (1..=OLD_FILES).rev().map(|number| old(&path, number)).collect();
    files.retain(|file| file.exists());
    files.push(path);
    let (mut lines, mut last) = (0, None);
    for file in files {
        let text = std::fs::read(&file)
            .map_err(|error| Failure(format!("cannot read {}: {error}", file.display())))?;
        for (number, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
            // The last one may be about to be written.
            let Some(line) = line.strip_suffix(b"\n") else { break };
            let wrong = |what| Failure(format!("{}, line {}: {what}", file.display(), number + 1));
            let line = Line::parse(line).ok_or_else(|| wrong("this is no line of an audit log"))?;
            if hash(line.hashed) != line.hash {
                return Err(wrong("this line was changed"));
            }
            if last.as_deref().is_some_and(|last| !line.follows(last)) {
                return Err(wrong("lines before this one are missing or were put in"));
            }
            last = Some(line.hash.to_owned());
            lines += 1;
        }
    }
    Ok(Verified { lines, last: last.unwrap_or_else(origin) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn fields(number: usize) -> Fields {
        vec![("event", format!("number {number}\r\n\"").into())]
    }

    /// A log of so many lines, with three lines a file.
    fn written(lines: usize) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..lines {
            let mut file = File::open(dir.path()).unwrap();
            file.size_max = 600;
            file.append(fields(number)).unwrap();
            file.sync().unwrap();
        }
        dir
    }

    #[test]
    fn the_chain_goes_on_through_restarts_and_files_and_stays_bounded() {
        for lines in [0, 1, 2, 5, 11] {
            let dir = written(lines);
            if lines > 0 {
                assert_eq!(verify(dir.path()).unwrap().lines, lines as u64);
            }
        }
        let dir = written(100);
        let files = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(files, OLD_FILES + 1);
        assert!(verify(dir.path()).unwrap().lines < 20);
    }

    #[test]
    fn whoever_changes_something_is_noticed() {
        let dir = written(5);
        let path = dir.path().join(NAME);
        let old = old(&path, 1);
        for file in [&path, &old] {
            let whole = std::fs::read(file).unwrap();
            for at in 0..whole.len() {
                let mut changed = whole.clone();
                changed[at] ^= 1;
                std::fs::write(file, &changed).unwrap();
                // Without its end a line is one that is being written.
                let is_cut = *file == path && at == whole.len() - 1;
                assert_eq!(verify(dir.path()).is_err(), !is_cut, "byte {at}");
            }
            std::fs::write(file, &whole).unwrap();
        }
        let text = std::fs::read_to_string(&old).unwrap();
        let (_first, rest) = text.split_once('\n').unwrap();
        let (second, third) = rest.split_once('\n').unwrap();
        std::fs::write(&old, rest).unwrap();
        assert!(verify(dir.path()).is_ok(), "the oldest lines go when files do");
        std::fs::write(&old, second.to_owned() + "\n").unwrap();
        assert!(verify(dir.path()).unwrap_err().to_string().contains("audit.log, line 1: lines before"));
        std::fs::write(&old, third.to_owned() + second + "\n").unwrap();
        assert!(verify(dir.path()).is_err());
    }

    #[test]
    fn what_a_crash_has_cut_off_is_taken_away() {
        let dir = written(2);
        let path = dir.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&*whole, b"{\"time\":\"20"].concat()).unwrap();
        File::open(dir.path()).unwrap().append(fields(2)).unwrap();
        assert_eq!(verify(dir.path()).unwrap().lines, 3);
    }

    #[test]
    fn times_are_readable() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_419_600, "2026-11-23T07:40:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
