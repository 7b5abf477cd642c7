//! The report of an analysis: a table, the claims that it decides, and a plot, as text, JSON, CSV
//! and SVG.

use super::plot::Plot;
use super::statistics::{Estimate, Verdict};
use crate::error::{Error, Result, figure};
use crate::image::write_whole;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A claim and what the figures say of it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Claim {
    /// The claim, without a full stop.
    pub claim: String,
    /// The test's answer.
    pub verdict: Verdict,
    /// The figures behind the answer.
    pub because: String,
}

impl Claim {
    /// The claim, its verdict and the figures in one sentence.
    pub fn sentence(&self) -> String {
        format!("{}: {} ({}).", self.claim, self.verdict.words(), self.because)
    }
}

/// Names and values in their order.
#[derive(Clone, Debug, Default)]
pub struct Row(pub Vec<(String, Value)>);

impl Row {
    /// The same with another cell. Numbers that are not finite become empty.
    pub fn with(mut self, name: &str, value: impl serde::Serialize) -> Row {
        self.0.push((name.into(), json!(value)));
        self
    }

    /// The same with a mean and the ends of its 95 % interval.
    pub fn with_estimate(self, name: &str, e: &Estimate) -> Row {
        self.with(name, e.mean).with("low", e.low).with("high", e.high)
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// What an analysis found.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    /// The finding's name, which its files carry.
    pub finding: &'static str,
    /// The prior.
    pub prior: String,
    /// The operator.
    pub operator: String,
    /// All that determines the figures.
    pub settings: Row,
    /// The figures; all rows have the same names.
    pub rows: Vec<Row>,
    /// What they decide.
    pub claims: Vec<Claim>,
    /// What a reader has to know.
    pub notes: Vec<String>,
    /// The version of the program.
    pub version: &'static str,
    /// The plot.
    #[serde(skip)]
    pub plot: Plot,
}

impl Report {
    /// The table, the claims and the notes, as they are printed.
    pub fn text(&self) -> String {
        let heads: Vec<&str> =
            self.rows.first().map(|r| r.0.iter().map(|c| c.0.as_str()).collect()).unwrap_or_default();
        let cells: Vec<Vec<String>> = self.rows.iter().map(|r| r.0.iter().map(|c| shown(&c.1)).collect()).collect();
        let widths: Vec<usize> = (0..heads.len())
            .map(|k| cells.iter().map(|r| r[k].chars().count()).chain([heads[k].len()]).max().unwrap_or(0))
            .collect();
        let is_text: Vec<bool> =
            (0..heads.len()).map(|k| self.rows.iter().any(|r| matches!(r.0[k].1, Value::String(_)))).collect();
        let line = |row: &[&str]| {
            let padded = row.iter().enumerate().map(|(k, cell)| match is_text[k] {
                true => format!("{cell:<0$}", widths[k]),
                false => format!("{cell:>0$}", widths[k]),
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_string()
        };
        let mut lines = vec![format!("{}: prior {}, operator {}", self.finding, self.prior, self.operator)];
        lines.push(line(&heads));
        lines.extend(cells.iter().map(|row| line(&row.iter().map(String::as_str).collect::<Vec<_>>())));
        lines.extend(self.claims.iter().map(Claim::sentence));
        lines.extend(self.notes.iter().cloned());
        lines.join("\n")
    }

    /// The report as one JSON document.
    pub fn json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map_err(|e| Error::Invalid(e.to_string()))
    }

    /// The table as CSV.
    pub fn csv(&self) -> String {
        let heads = self.rows.first().map(|r| r.0.iter().map(|c| c.0.clone()).collect::<Vec<_>>());
        let cell = |value: &Value| match value {
            Value::Null => String::new(),
            Value::String(s) if s.contains([',', '"']) => format!("\"{}\"", s.replace('"', "\"\"")),
            Value::String(s) => s.clone(),
            other => other.to_string(),
        };
        let rows = self.rows.iter().map(|r| r.0.iter().map(|c| cell(&c.1)).collect::<Vec<_>>());
        heads.into_iter().chain(rows).map(|cells| cells.join(",") + "\n").collect()
    }

    /// Writes `FINDING-PRIOR-OPERATOR.json`, `.csv` and `.svg` into a folder; each is complete or
    /// not changed. Gives their paths.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let stem = format!("{}-{}-{}", self.finding, self.prior, self.operator);
        let stem: String =
            stem.chars().map(|c| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '-' }).collect();
        let files = [("json", self.json()? + "\n"), ("csv", self.csv()), ("svg", self.plot.svg())];
        let write = |(ending, text): (&str, String)| {
            let path = folder.join(format!("{stem}.{ending}"));
            write_whole(&path, text.as_bytes()).map(|()| path)
        };
        files.into_iter().map(write).collect()
    }
}

/// A cell of the printed table: four digits that count.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(s) => s.clone(),
        Value::Number(n) if n.is_f64() => figure(n.as_f64().unwrap_or(f64::NAN)),
        other => other.to_string(),
    }
}
