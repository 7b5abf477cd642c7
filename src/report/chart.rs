//! Curves over the steps of a run, as SVG. All texts are HTML around it, so that they keep their
//! size on a narrow screen.

use super::html::Html;
use std::ops::Range;

/// Extents of the drawing in its own units; it is stretched to the space that there is.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 300.0;

/// Colours of the curves, as classes of the style sheet: the largest number of curves.
const CLASSES: [&str; 2] = ["first", "second"];

/// One or two curves over the same steps.
pub struct Chart<'a> {
    /// What it shows.
    pub title: &'a str,
    /// What a step is called.
    pub step: &'a str,
    /// Name and values of each curve, one value per step. Values that are not finite, and with a
    /// logarithmic axis those that are not positive, are left out.
    pub curves: Vec<(&'a str, Vec<f64>)>,
    /// A value to compare with, drawn as a dashed line.
    pub level: Option<(&'a str, f64)>,
    /// Steps of a kind, which are shaded.
    pub shaded: Option<(&'a str, Vec<Range<usize>>)>,
    /// The name of each step; empty if they are just numbered.
    pub labels: Vec<String>,
    /// Whether the axis of the values is logarithmic. If not, it begins at 0.
    pub logarithmic: bool,
    /// How a value is written.
    pub written: fn(f64) -> String,
}

impl Chart<'_> {
    /// The chart. Nothing if there are fewer than two steps, or no values.
    pub fn html(&self) -> Html {
        let count = self.curves.iter().map(|c| c.1.len()).max().unwrap_or(0);
        let Some((low, high)) = self.extent().filter(|_| count > 1) else { return Html::default() };
        let x = |step: usize| WIDTH * step as f64 / (count - 1) as f64;
        let share = |value: f64| (self.on_axis(value) - low) / (high - low);
        let y = |value: f64| HEIGHT * (1.0 - share(value));
        let mut drawn = Vec::new();
        for range in self.shaded.iter().flat_map(|s| &s.1) {
            // From half a step before the first to half a step after the last.
            let from = (x(range.start) - 0.5 * x(1)).max(0.0);
            let to = (x(range.end.max(1) - 1) + 0.5 * x(1)).min(WIDTH);
            let [from, width, height] = [from, to - from, HEIGHT].map(|v| format!("{v:.1}"));
            let place = [("class", "shade"), ("x", &from), ("y", "0"), ("width", &width), ("height", &height)];
            drawn.push(Html::element("rect", &place, Html::default()));
        }
        if let Some((_, level)) = self.level.filter(|l| self.is_drawn(l.1)) {
            drawn.push(line("level", ["0", &format!("{WIDTH}")], &format!("{:.1}", y(level))));
        }
        for ((name, values), class) in self.curves.iter().zip(CLASSES) {
            let point =
                |(step, &value): (usize, &f64)| self.is_drawn(value).then(|| format!("{:.1},{:.1}", x(step), y(value)));
            let points = values.iter().enumerate().filter_map(point).collect::<Vec<_>>().join(" ");
            let written: Vec<String> = values.iter().map(|&v| self.shown(v)).collect();
            let attributes =
                [("class", class), ("points", &points), ("data-name", name), ("data-values", &written.join("|"))];
            drawn.push(Html::element("polyline", &attributes, Html::default()));
        }
        drawn.push(line("cursor", ["0", "0"], ""));
        let box_of = format!("0 0 {WIDTH} {HEIGHT}");
        let drawing = [("viewBox", box_of.as_str()), ("preserveAspectRatio", "none"), ("aria-hidden", "true")];
        let tick = |k: usize| {
            let on_axis = low + (high - low) * k as f64 / 3.0;
            let value = if self.logarithmic { on_axis.exp() } else { on_axis };
            let place = format!("top:{:.1}%", 100.0 - 100.0 * k as f64 / 3.0);
            Html::element("span", &[("class", "tick"), ("style", &place)], (self.written)(value).as_str())
        };
        let mut plot = vec![Html::element("svg", &drawing, drawn)];
        plot.extend((0..4).map(tick));
        let ends = [format!("{} 1", self.step), count.to_string()];
        let ends = ends.iter().map(|end| Html::element("span", &[], end.as_str())).collect::<Vec<_>>();
        let labels = self.labels.join("\n");
        let count = count.to_string();
        let attributes =
            [("class", "chart"), ("data-count", count.as_str()), ("data-step", self.step), ("data-labels", &labels)];
        Html::element(
            "figure",
            &attributes,
            vec![
                Html::element("h3", &[], self.title),
                self.key(),
                Html::element("div", &[("class", "plot")], plot),
                Html::element("div", &[("class", "ends")], ends),
                Html::element("div", &[("class", "readout")], Html::default()),
            ],
        )
    }

    fn on_axis(&self, value: f64) -> f64 {
        if self.logarithmic { value.ln() } else { value }
    }

    fn is_drawn(&self, value: f64) -> bool {
        value.is_finite() && (!self.logarithmic || value > 0.0)
    }

    fn shown(&self, value: f64) -> String {
        if value.is_finite() { (self.written)(value) } else { "-".into() }
    }

    /// The ends of the axis of the values. None if there are no values.
    fn extent(&self) -> Option<(f64, f64)> {
        let values = self.curves.iter().flat_map(|c| c.1.iter().copied());
        let drawn = || values.clone().filter(|&v| self.is_drawn(v)).map(|v| self.on_axis(v));
        drawn().next()?;
        let level = self.level.map(|l| l.1).filter(|&l| self.is_drawn(l)).map(|l| self.on_axis(l));
        let zero = (!self.logarithmic).then_some(0.0);
        let all = || drawn().chain(level).chain(zero);
        let (low, high) = (all().fold(f64::MAX, f64::min), all().fold(f64::MIN, f64::max));
        if high > low { Some((low, high)) } else { Some((low - 0.5, high + 0.5)) }
    }

    /// The names of the curves, of the level and of the shading. Beside a curve stand its first and
    /// last value, or on an axis that begins at 0 its largest.
    fn key(&self) -> Html {
        let entry = |class: &str, text: String| {
            Html::element("li", &[], vec![Html::element("i", &[("class", class)], Html::default()), Html::text(&text)])
        };
        let told = |values: &[f64]| {
            let drawn: Vec<f64> = values.iter().copied().filter(|&v| self.is_drawn(v)).collect();
            match drawn[..] {
                [first, .., last] if self.logarithmic => format!(": {} to {}", self.shown(first), self.shown(last)),
                [] => String::new(),
                _ => format!(": at most {}", self.shown(drawn.iter().copied().fold(f64::MIN, f64::max))),
            }
        };
        let curves =
            self.curves.iter().zip(CLASSES).map(|((name, v), class)| entry(class, format!("{name}{}", told(v))));
        let level = self.level.map(|(name, value)| entry("level", format!("{name}: {}", self.shown(value))));
        let shaded = self.shaded.iter().filter(|s| !s.1.is_empty()).map(|(name, _)| entry("shade", (*name).into()));
        Html::element("ul", &[("class", "key")], curves.chain(level).chain(shaded).collect::<Vec<_>>())
    }
}

/// A straight line: level if `y` is given, else over the whole height.
fn line(class: &'static str, [from, to]: [&str; 2], y: &str) -> Html {
    let height = format!("{HEIGHT}");
    let [above, below] = if y.is_empty() { ["0", height.as_str()] } else { [y, y] };
    Html::element("line", &[("class", class), ("x1", from), ("x2", to), ("y1", above), ("y2", below)], Html::default())
}
