//! Listeners, sessions, shards, auth: everything wired
