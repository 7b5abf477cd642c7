//! Options of a task: `name:key=value,key=value`.

use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// Options of a task: `name:key=value,key=value`.
pub struct Options {
    pub(super) task: String,
    /// What follows the name directly, as the 4 of `sr4`.
    pub(super) suffix: String,
    pub(super) values: BTreeMap<String, String>,
}

impl Options {
    /// Takes option `key` as a number within `range`.
    pub(super) fn number(&mut self, key: &str, default: f64, range: std::ops::RangeInclusive<f64>) -> Result<f64> {
        let Some(text) = self.values.remove(key) else { return Ok(default) };
        let value = text.parse().ok().filter(|v| range.contains(v));
        value.ok_or_else(|| {
            let (low, high) = range.into_inner();
            Error::Invalid(format!("task {}: {key} is {text}, expected a number from {low} to {high}", self.task))
        })
    }

    /// Takes option `key` as a file name.
    pub(super) fn file(&mut self, key: &str) -> Option<String> {
        self.values.remove(key)
    }
}
