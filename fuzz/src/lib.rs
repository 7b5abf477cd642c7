//! Fuzz targets over every kind of input that dmap reads.

pub mod allocation_limit;
pub mod targets;

/// Gives `bytes` to the target called `name`.
pub fn run(name: &str, bytes: &[u8]) {
    let target = targets::TARGETS.iter().find(|t| t.0 == name);
    target.expect("a target of this name").1(bytes)
}
