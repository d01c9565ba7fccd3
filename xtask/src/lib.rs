//! Checks of the house itself, which a compiler or a linter cannot know, and load generators for what Leveret is
//! compared with.
//!
//! Not part of the product: nothing under `crates/` depends on it.

pub mod load;
pub mod tidy;
