//! Options after the name of a task or a method: `name:key=value,key=value`.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Options after the name of a task or a method: `name:key=value,key=value`. A parser takes the
/// options that it knows; [`Options::finish`] refuses the remaining ones.
pub struct Options {
    /// The parsed text in messages: `task sr4`.
    what: String,
    values: BTreeMap<String, String>,
}

impl Options {
    /// Splits `text` into its name and its options. `kind` is task or method; `known` lists the
    /// options of a name, for messages.
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

    /// Adds an option that is part of the name, such as the 4 of `sr4`.
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

    /// Takes option `key` as a number within `range`; none if it is absent.
    pub fn number_if_given(&mut self, key: &str, range: RangeInclusive<f64>) -> Result<Option<f64>> {
        match self.has(key) {
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

    /// Takes option `key` as one of `choices` and returns its index. The first choice is the
    /// default.
    pub fn choice(&mut self, key: &str, choices: &[&str]) -> Result<usize> {
        let Some(text) = self.values.remove(key) else { return Ok(0) };
        let place = choices.iter().position(|c| *c == text);
        place.ok_or_else(|| self.error(&format!("{key} is {text}, expected {}", choices.join(" or "))))
    }

    /// True if option `key` was given and not taken yet.
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Takes option `key` as text.
    pub fn text(&mut self, key: &str) -> Option<String> {
        self.values.remove(key)
    }

    /// An error that names the parsed text.
    pub fn error(&self, reason: &str) -> Error {
        Error::Invalid(format!("{}: {reason}", self.what))
    }

    /// Fails if an option was not taken.
    pub fn finish(self, known: &str) -> Result<()> {
        let known = if known.is_empty() { "it has none".into() } else { format!("options: {known}") };
        match self.values.keys().next() {
            Some(key) => Err(self.error(&format!("unknown option {key} ({known})"))),
            None => Ok(()),
        }
    }
}
