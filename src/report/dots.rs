//! Rows of dots over one axis: what was measured of each item, with mean and standard error. The
//! dots are placed in percent of the row, so that they stay round on any screen.

use super::html::Html;

/// A row of dots.
pub struct DotRow<'a> {
    /// What it is about.
    pub name: &'a str,
    /// A value of each item. Values that are not finite are left out.
    pub values: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// The standard error of the mean, drawn to both sides of it.
    pub standard_error: Option<f64>,
    /// The mean as the row ends with it.
    pub written: String,
}

/// The rows over one axis, `title` above them. `legend` says what dots and bars are. Nothing if
/// there are no values.
pub fn dots(title: &str, legend: &str, rows: &[DotRow<'_>]) -> Html {
    let all = || rows.iter().flat_map(|r| r.values.iter().copied().chain([r.mean])).filter(|v| v.is_finite());
    if all().next().is_none() {
        return Html::default();
    }
    let (low, high) = axis(all().fold(f64::MAX, f64::min), all().fold(f64::MIN, f64::max));
    let at = |value: f64| 100.0 * (value - low) / (high - low);
    let left = |value: f64| format!("left:{:.2}%", at(value).clamp(0.0, 100.0));
    let mark = |class, style: String| Html::element("i", &[("class", class), ("style", &style)], Html::default());
    let line = |row: &DotRow<'_>| {
        let finite = |v: &f64| v.is_finite();
        let mut marks: Vec<Html> = row.values.iter().copied().filter(finite).map(|v| mark("dot", left(v))).collect();
        if let Some(error) = row.standard_error.filter(|e| e.is_finite() && row.mean.is_finite()) {
            let ends = [row.mean - error, row.mean + error].map(|v| at(v).clamp(0.0, 100.0));
            marks.push(mark("error", format!("left:{:.2}%;width:{:.2}%", ends[0], ends[1] - ends[0])));
        }
        if row.mean.is_finite() {
            marks.push(mark("mean", left(row.mean)));
        }
        let name = Html::element("span", &[("class", "name")], row.name);
        let track = Html::element("span", &[("class", "track")], marks);
        let written = Html::element("span", &[("class", "written")], row.written.as_str());
        Html::element("li", &[], vec![name, track, written])
    };
    let ends = [low, high].map(|end| Html::element("span", &[], format!("{end}").as_str()));
    let ends = Html::element("span", &[("class", "ends")], ends.to_vec());
    let lines: Vec<Html> = rows.iter().map(line).chain([Html::element("li", &[("class", "axis")], ends)]).collect();
    let content = vec![
        Html::element("h3", &[], title),
        Html::element("ul", &[], lines),
        Html::element("figcaption", &[], legend),
    ];
    Html::element("figure", &[("class", "dots")], content)
}

/// The ends of an axis, whole numbers, for values from `low` to `high`.
fn axis(low: f64, high: f64) -> (f64, f64) {
    let (low, high) = (low.floor(), high.ceil());
    if high > low { (low, high) } else { (low - 1.0, high + 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_stand_where_their_values_are_on_the_axis() {
        let row = DotRow {
            name: "<a>",
            values: vec![20.5, f64::INFINITY, 23.5],
            mean: 22.0,
            standard_error: Some(0.4),
            written: "22.0".into(),
        };
        let first = DotRow { name: "", values: vec![22.0], mean: 22.0, standard_error: None, written: String::new() };
        let found = dots("PSNR", "", &[first, row]);
        // The axis goes from 20 to 24.
        let found = found.as_str();
        assert!(found.contains("left:12.50%") && found.contains("left:87.50%"), "{found}");
        assert!(found.contains("left:40.00%;width:20.00%") && found.contains("left:50.00%"), "{found}");
        assert!(found.contains("&lt;a&gt;") && found.matches("class=\"dot\"").count() == 3, "{found}");
        assert!(found.contains("<span>20</span>\n<span>24</span>"), "{found}");
        assert_eq!(axis(3.0, 3.0), (2.0, 4.0));
        assert!(dots("PSNR", "", &[]).is_empty());
    }
}
