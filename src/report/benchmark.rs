//! The page about a run of `dmap bench`: a table per kind of row, with bars.

use super::html::{Html, bar, figure, table};
use super::page::page;
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

/// The page. `machine` describes device and precision.
pub fn benchmark_page(machine: &str, rows: &[BenchmarkRow]) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    rows.iter().for_each(|r| {
        if !kinds.contains(&r.kind.as_str()) {
            kinds.push(&r.kind)
        }
    });
    let section = |kind: &&str| {
        let rows: Vec<&BenchmarkRow> = rows.iter().filter(|r| r.kind == *kind).collect();
        let heading = Html::element("h2", &[], format!("{kind}: {} rows", rows.len()).as_str());
        Html::joined([heading, table_of(&rows)])
    };
    page("dmap bench", Html::element("p", &[], machine), kinds.iter().map(section).collect::<Vec<_>>())
}

fn table_of(rows: &[&BenchmarkRow]) -> Html {
    let time = |row: &BenchmarkRow| TIMES.iter().find_map(|(key, unit)| Some((row.values[*key].as_f64()?, *unit)));
    let longest = rows.iter().filter_map(|r| time(r)).map(|t| t.0).fold(0.0, f64::max);
    let unit = rows.iter().find_map(|r| time(r)).map_or("time", |t| t.1);
    let of_row = |row: &&BenchmarkRow| {
        let rest = |(key, value): (&String, &Value)| {
            let shown = value.as_f64().map_or_else(|| value.to_string(), figure);
            (!value.is_null() && !TIMES.iter().any(|(time, _)| time == key))
                .then(|| format!("{}: {shown}", key.replace('_', " ")))
        };
        let rest: Vec<String> = row.values.as_object().into_iter().flatten().filter_map(rest).collect();
        let (length, number) = match time(row) {
            Some((value, _)) => (bar(value / longest), figure(value)),
            None => (Html::default(), "-".into()),
        };
        let rest = row.error.clone().unwrap_or(rest.join(", "));
        vec![Html::text(&row.name), length, Html::text(&number), Html::text(&rest)]
    };
    table(&["name", "", unit, "more"], rows.iter().map(of_row).collect::<Vec<_>>())
}
