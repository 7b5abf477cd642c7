//! Options that follow the name of a task or a method: `name:key=value,key=value`.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Options that follow the name of a task or a method: `name:key=value,key=value`. A parser takes those that it knows;
/// [`Options::finish`] refuses what is left.
pub struct Options {
    /// What is parsed, for messages: `task sr4`.
    what: String,
    values: BTreeMap<String, String>,
}

impl Options {
    /// Splits `text` of a `kind` (task, method) into its name and its options. `known` lists the options in messages.
    pub fn parse<'a>(kind: &str, text: &'a str, known: impl FnOnce(&str) -> String) -> Result<(&'a str, Options)> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let what = format!("{kind} {text}");
        let mut options = Options { what, values: BTreeMap::new() };
        for part in rest.split(',').filter(|p| !p.is_empty()) {
            let Some((key, value)) = part.split_once('=') else {
                let known = known(name);
                return Err(options.error(&format!("{part} should be key=value (options: {known})")));
            };
            options.give(key.trim(), value.trim())?;
        }
        Ok((name, options))
    }

    /// Adds an option that was written elsewhere, as the 4 of `sr4`.
    pub fn give(&mut self, key: &str, value: &str) -> Result<()> {
        match self.values.insert(key.into(), value.into()) {
            Some(_) => Err(self.error(&format!("{key} is given twice"))),
            None => Ok(()),
        }
    }

    /// Takes option `key` as a number within `range`.
    pub fn number(&mut self, key: &str, default: f64, range: RangeInclusive<f64>) -> Result<f64> {
        self.within(key, default, range, "a number")
    }

    /// Takes option `key` as a whole number within `range`.
    pub fn count(&mut self, key: &str, default: usize, range: RangeInclusive<usize>) -> Result<usize> {
        self.within(key, default, range, "a whole number")
    }

    /// Takes option `key` as a number within `range`, if it is there.
    pub fn number_if_given(&mut self, key: &str, range: RangeInclusive<f64>) -> Result<Option<f64>> {
        match self.values.contains_key(key) {
            true => self.number(key, 0.0, range).map(Some),
            false => Ok(None),
        }
    }

    fn within<T: FromStr + PartialOrd + std::fmt::Display>(
        &mut self,
        key: &str,
        default: T,
        range: RangeInclusive<T>,
        kind: &str,
    ) -> Result<T> {
        let Some(text) = self.values.remove(key) else { return Ok(default) };
        let value = text.parse().ok().filter(|v| range.contains(v));
        value.ok_or_else(|| {
            let (low, high) = range.into_inner();
            self.error(&format!("{key} is {text}, expected {kind} from {low} to {high}"))
        })
    }

    /// Takes option `key` as one of `choices`, the first of which is the default. Gives its place among them.
    pub fn choice(&mut self, key: &str, choices: &[&str]) -> Result<usize> {
        let Some(text) = self.values.remove(key) else { return Ok(0) };
        let place = choices.iter().position(|c| *c == text);
        place.ok_or_else(|| self.error(&format!("{key} is {text}, expected {}", choices.join(" or "))))
    }

    /// Takes option `key` as it was written.
    pub fn text(&mut self, key: &str) -> Option<String> {
        self.values.remove(key)
    }

    /// An error about what is parsed.
    pub fn error(&self, reason: &str) -> Error {
        Error::Invalid(format!("{}: {reason}", self.what))
    }

    /// Fails on an option that was not taken.
    pub fn finish(self, known: &str) -> Result<()> {
        let known = if known.is_empty() { "it has none".into() } else { format!("options: {known}") };
        match self.values.keys().next() {
            Some(key) => Err(self.error(&format!("unknown option {key} ({known})"))),
            None => Ok(()),
        }
    }
}
