//! What a shard makes of a disk that was damaged while nobody looked, and of one that dies in any of its calls.
//!
//! `LEVERET_FLIPPED_BITS` is how many bits of each class of files are flipped, `LEVERET_CRASHES` how often each call of
//! the disk is the last one.

mod amplification;
mod crashes;
mod damage;
mod node;
mod topology;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}
