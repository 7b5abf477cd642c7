//! The page about a run of `dmap bench`: a table per kind of row, with bars.

use super::html::{Html, bar, recorded, table};
use super::page::page;
use crate::error::figure;
use serde_json::Value;

/// The fields that bars show, of which each kind of row has one, and their units.
const TIMES: [(&str, &str); 3] = [("median_ms", "ms"), ("ms_per_step", "ms"), ("us", "us")];

/// A row as it was printed: its kind, its name and its values, or an error.
pub struct BenchmarkRow {
    /// `op`, `step` or `node`.
    pub kind: String,
    /// What was measured.
    pub name: String,
    /// Figures by name, an object.
    pub values: Value,
    /// Why it could not be measured.
    pub error: Option<String>,
}

/// The page. `machine` is the row of device and precision.
pub fn benchmark_page(machine: &BenchmarkRow, rows: &[BenchmarkRow]) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    rows.iter().for_each(|r| {
        if !kinds.contains(&r.kind.as_str()) {
            kinds.push(&r.kind)
        }
    });
    let section = |kind: &&str| {
        let rows: Vec<&BenchmarkRow> = rows.iter().filter(|r| r.kind == *kind).collect();
        let heading = Html::element("h2", &[], format!("{kind} ({})", rows.len()).as_str());
        Html::joined([heading, table_of(&rows)])
    };
    let machine = format!("{}, {}", machine.name, facts(&machine.values, |_| true));
    page("dmap bench", Html::element("p", &[], machine.as_str()), kinds.iter().map(section).collect::<Vec<_>>())
}

/// The values of an object whose keys are `wanted`, as one line.
fn facts(values: &Value, wanted: impl Fn(&str) -> bool) -> String {
    let values = values.as_object().into_iter().flatten().filter(|(key, value)| !value.is_null() && wanted(key));
    let fact = |(key, value): (&String, &Value)| format!("{}: {}", key.replace('_', " "), recorded(key, value));
    values.map(fact).collect::<Vec<_>>().join(", ")
}

fn table_of(rows: &[&BenchmarkRow]) -> Html {
    let time = |row: &BenchmarkRow| TIMES.iter().find_map(|(key, unit)| Some((row.values[*key].as_f64()?, *unit)));
    let longest = rows.iter().filter_map(|r| time(r)).map(|t| t.0).fold(0.0, f64::max);
    let unit = rows.iter().find_map(|r| time(r)).map_or("time", |t| t.1);
    let of_row = |row: &&BenchmarkRow| {
        let is_time = |key: &str| TIMES.iter().any(|(time, _)| *time == key);
        let rest = facts(&row.values, |key| !is_time(key));
        let (length, number) = match time(row) {
            Some((value, _)) => (bar(value / longest), figure(value)),
            None => (Html::default(), "-".into()),
        };
        let rest = row.error.clone().unwrap_or(rest);
        vec![Html::text(&row.name), length, Html::text(&number), Html::text(&rest)]
    };
    table(&["name", "", unit, "more"], rows.iter().map(of_row).collect::<Vec<_>>())
}
