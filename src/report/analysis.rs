//! The page about an analysis: its claims, its plot and its table.

use super::html::{Html, definitions, recorded, table};
use super::page::page;
use crate::analyse::Report;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// The page.
pub fn analysis_page(report: &Report) -> String {
    let heading = |text: &str| Html::element("h2", &[], text);
    let sentence = |text: String| Html::element("p", &[], text.as_str());
    let mut claims = vec![heading("Claims")];
    claims.extend(report.claims.iter().map(|claim| sentence(claim.sentence())));
    claims.extend(report.notes.iter().cloned().map(sentence));

    // A phone gets a drawing of its own: one that is shrunk has letters too small to read.
    let source = |svg: String| format!("data:image/svg+xml;base64,{}", STANDARD.encode(svg));
    let (wide, narrow) = (source(report.plot.svg()), source(report.plot.narrow_svg()));
    let narrow = Html::empty("source", &[("media", "(max-width: 40rem)"), ("srcset", &narrow)]);
    let wide = Html::empty("img", &[("src", &wide), ("alt", "plot of the figures below"), ("class", "plot")]);
    let plot = Html::element("picture", &[], vec![narrow, wide]);

    let heads: Vec<&str> =
        report.rows.first().map(|row| row.0.iter().map(|cell| cell.0.as_str()).collect()).unwrap_or_default();
    let cells = |cells: &[(String, Value)]| cells.iter().map(|(key, v)| Html::text(&recorded(key, v))).collect();
    let figures = table(&heads, report.rows.iter().map(|row| cells(&row.0)));
    let names: Vec<String> = report.settings.0.iter().map(|(name, _)| name.replace('_', " ")).collect();
    let values = report.settings.0.iter().map(|(name, value)| recorded(name, value));
    let settings = names.iter().map(String::as_str).zip(values);

    let introduction = format!("prior {}, operator {}, dmap {}", report.prior, report.operator, report.version);
    let sections = [
        Html::joined(claims),
        plot,
        Html::joined([heading("Figures"), figures]),
        Html::joined([heading("Settings"), definitions(settings)]),
    ];
    page(&format!("dmap analyse {}", report.finding), Html::element("p", &[], introduction.as_str()), sections)
}
