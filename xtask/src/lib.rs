//! Checks of the house itself: what a compiler or a linter cannot know about this workspace.
//!
//! Not part of the product: nothing under `crates/` depends on it.

pub mod tidy;
