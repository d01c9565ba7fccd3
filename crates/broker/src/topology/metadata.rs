//! What is written about a virtual host.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What is written about a virtual host.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Metadata {
    /// For people.
    pub description: String,
    /// For people and their tools.
    pub tags: Vec<Arc<str>>,
    /// `x-queue-type` of queues that say nothing about it, where it fits: if they are durable, shared and stay.
    pub default_queue_type: Option<Arc<str>>,
}
