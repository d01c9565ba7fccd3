//! Patterns that users write for names: regular expressions with a limit, compiled once.

use regex::{Regex, RegexBuilder};

use crate::error::{Error, Kind};

/// Compiled size of one pattern at most, in bytes.
const PATTERN_SIZE_MAX: usize = 1 << 20;

/// A pattern. Most are one of the first two, and those cost no memory. It matches anywhere in a name unless it is anchored.
#[derive(Debug)]
pub(crate) enum Pattern {
    Everything,
    Nothing,
    Regex(Regex),
}

impl Pattern {
    /// A pattern of permissions, where an empty one matches nothing.
    pub(crate) fn new(text: &str) -> Result<Pattern, Error> {
        match text {
            ".*" => Ok(Pattern::Everything),
            "" | "^$" => Ok(Pattern::Nothing),
            _ => match RegexBuilder::new(text).size_limit(PATTERN_SIZE_MAX).build() {
                Ok(regex) => Ok(Pattern::Regex(regex)),
                Err(_) => Err(Error::new(Kind::Invalid, format!("regular expression '{text}' is invalid"))),
            },
        }
    }

    /// A pattern of policies, where an empty one is found in every name.
    pub(crate) fn of_policy(text: &str) -> Result<Pattern, Error> {
        if text.is_empty() { Ok(Pattern::Everything) } else { Pattern::new(text) }
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        match self {
            Pattern::Everything => true,
            Pattern::Nothing => false,
            Pattern::Regex(regex) => regex.is_match(name),
        }
    }
}
