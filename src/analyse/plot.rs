//! A plot as an SVG file: axes with linear or logarithmic ticks, lines or points with error bars, a
//! legend. Its colours follow the reader's light or dark theme.

use std::fmt::Write;

/// How values become places on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// In proportion.
    Linear,
    /// By their logarithm; values that are not positive are left out.
    Log,
}

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it shows.
    pub label: String,
    /// How values become places.
    pub scale: Scale,
    /// Names in place of numbers: the value k is category k.
    pub categories: Vec<String>,
}

impl Axis {
    /// An axis of numbers.
    pub fn new(label: &str, scale: Scale) -> Axis {
        Axis { label: label.into(), scale, categories: Vec::new() }
    }

    /// An axis of named places.
    pub fn of_categories(label: &str, categories: Vec<String>) -> Axis {
        Axis { categories, ..Axis::new(label, Scale::Linear) }
    }
}

/// A value with its interval.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Place along the axis x.
    pub x: f64,
    /// The value.
    pub y: f64,
    /// Lower and upper end of its 95 % interval; equal to `y` without one.
    pub interval: (f64, f64),
}

/// A line, or points.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its points, in the order of the line.
    pub points: Vec<Point>,
    /// True if a line joins the points, false for markers; both have error bars.
    pub is_line: bool,
}

/// A plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Its heading.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// What is shown.
    pub series: Vec<Series>,
    /// A value of y that is marked by a line across, with its meaning.
    pub mark: Option<(f64, String)>,
}

/// Where the parts of a drawing stand.
struct Layout {
    width: f64,
    height: f64,
    /// Left, right, top and bottom of the area of the values.
    area: (f64, f64, f64, f64),
    /// Left and top of the legend.
    legend: (f64, f64),
    /// The lines of the title.
    title: Vec<String>,
}

/// Height of a line of the title or of the legend.
const LINE: f64 = 20.0;

/// About as many ticks on an axis.
const TICKS: usize = 6;

const STYLE: &str = "\
text{font:12px system-ui,sans-serif;fill:#52514e}.title{font-size:15px;font-weight:600;fill:#0b0b0b}
.paper{fill:#fcfcfb}.grid{stroke:#e4e3df;stroke-width:1}.axis{stroke:#8a8984;stroke-width:1}
.mark{stroke:#52514e;stroke-width:1.5;stroke-dasharray:5 4}.line{fill:none;stroke-width:2;stroke-linejoin:round}
.bar{stroke-width:2}
.c0{--c:#2a78d6}.c1{--c:#eb6834}.c2{--c:#1baf7a}.c3{--c:#eda100}.c4{--c:#e87ba4}.c5{--c:#008300}.c6{--c:#4a3aa7}.c7{--c:#e34948}
.line,.bar{stroke:var(--c)}.dot{fill:var(--c)}
@media(prefers-color-scheme:dark){text{fill:#c3c2b7}.title{fill:#fff}.paper{fill:#1a1a19}.grid{stroke:#3a3936}
.axis{stroke:#8a8984}.mark{stroke:#c3c2b7}
.c0{--c:#3987e5}.c1{--c:#d95926}.c2{--c:#199e70}.c3{--c:#c98500}.c4{--c:#d55181}.c5{--c:#3fa33f}.c6{--c:#9085e9}.c7{--c:#e66767}}";

/// Values that an axis spans, and how they become pixels.
struct Span {
    scale: Scale,
    low: f64,
    high: f64,
    pixels: (f64, f64),
}

impl Span {
    fn new(axis: &Axis, values: impl Iterator<Item = f64>, pixels: (f64, f64)) -> Span {
        if !axis.categories.is_empty() {
            let high = axis.categories.len() as f64 - 0.5;
            return Span { scale: Scale::Linear, low: -0.5, high, pixels };
        }
        let place = |v: f64| if axis.scale == Scale::Log { v.log10() } else { v };
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for v in values.map(place).filter(|v| v.is_finite()) {
            (low, high) = (low.min(v), high.max(v));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let room = if high > low { 0.04 * (high - low) } else { 0.5 };
        Span { scale: axis.scale, low: low - room, high: high + room, pixels }
    }

    /// The pixel of a value; none if it has no place.
    fn at(&self, value: f64) -> Option<f64> {
        let v = if self.scale == Scale::Log { value.log10() } else { value };
        let share = (v - self.low) / (self.high - self.low);
        let (from, to) = self.pixels;
        v.is_finite().then(|| from + share.clamp(-0.01, 1.01) * (to - from))
    }

    /// Values with a tick and their labels.
    fn ticks(&self, axis: &Axis) -> Vec<(f64, String)> {
        if !axis.categories.is_empty() {
            return axis.categories.iter().enumerate().map(|(k, name)| (k as f64, name.clone())).collect();
        }
        let range = self.high - self.low;
        if self.scale == Scale::Log && range > 0.7 {
            // Over few powers of ten also 2 and 5 times each.
            let step = (range / TICKS as f64).ceil() as i32;
            let within: &[f64] = if range < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let powers = (self.low.floor() as i32..=self.high.floor() as i32).filter(|p| p.rem_euclid(step) == 0);
            let values = powers.flat_map(|p| within.iter().map(move |m| m * 10f64.powi(p)));
            let is_inside = |v: &f64| (self.low..=self.high).contains(&v.log10());
            return values.filter(is_inside).map(|v| (v, plain(v))).collect();
        }
        let place = |v: f64| if self.scale == Scale::Log { 10f64.powf(v) } else { v };
        let (low, high) = (place(self.low), place(self.high));
        let rough = (high - low) / (TICKS - 1) as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(rough);
        let first = (low / step).ceil() as i64;
        let rounded = |v: f64| (v / step).round() * step;
        (first..=(high / step).floor() as i64).map(|k| k as f64 * step).map(|v| (v, plain(rounded(v)))).collect()
    }
}

/// A number in a label.
fn plain(v: f64) -> String {
    match v.abs() {
        0.0 => "0".into(),
        a if !(1e-3..1e5).contains(&a) => format!("{v:.0e}"),
        _ => format!("{}", (v * 1e6).round() / 1e6),
    }
}

/// Text inside an element.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A text in lines of at most `most` characters, unless a word is longer.
fn wrapped(text: &str, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= most => *line += &format!(" {word}"),
            _ => lines.push(word.into()),
        }
    }
    lines
}

impl Plot {
    /// The plot as an SVG document, as wide as a page.
    pub fn svg(&self) -> String {
        let right = if self.series.len() > 1 { 560.0 } else { 736.0 };
        let (area, legend) = ((76.0, right, 48.0, 376.0), (right + 14.0, 58.0));
        self.drawn(&Layout { width: 760.0, height: 440.0, area, legend, title: vec![self.title.clone()] })
    }

    /// The plot as an SVG document, as wide as a phone, with the legend below it.
    pub fn narrow_svg(&self) -> String {
        let (width, title) = (360.0, wrapped(&self.title, 32));
        let top = 28.0 + LINE * title.len() as f64;
        let bottom = top + 260.0;
        let below = if self.series.len() > 1 { LINE * self.series.len() as f64 } else { 0.0 };
        let (area, legend) = ((72.0, width - 16.0, top, bottom), (72.0, bottom + 68.0));
        self.drawn(&Layout { width, height: bottom + 60.0 + below, area, legend, title })
    }

    fn drawn(&self, layout: &Layout) -> String {
        let named = self.series.len() > 1;
        let Layout { width, height, area: (left, right, top, bottom), legend, title } = layout;
        let (left, right, top, bottom) = (*left, *right, *top, *bottom);
        let points = || self.series.iter().flat_map(|s| &s.points);
        let x = Span::new(&self.x, points().map(|p| p.x), (left, right));
        let ends = points().flat_map(|p| [p.y, p.interval.0, p.interval.1]).chain(self.mark.iter().map(|m| m.0));
        let y = Span::new(&self.y, ends, (bottom, top));
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n<title>{}</title>\n\
             <style>{STYLE}</style>\n<rect class=\"paper\" width=\"{width}\" height=\"{height}\"/>\n",
            escaped(&self.title)
        );
        // Writing to a string does not fail.
        let mut put = |line: String| out.push_str(&(line + "\n"));
        for (k, line) in title.iter().enumerate() {
            let (from, at) = (if title.len() > 1 { 12.0 } else { left }, 26.0 + LINE * k as f64);
            put(format!(r#"<text class="title" x="{from}" y="{at}">{}</text>"#, escaped(line)));
        }
        for (value, label) in y.ticks(&self.y) {
            let Some(at) = y.at(value) else { continue };
            put(format!(r#"<line class="grid" x1="{left}" x2="{right}" y1="{at:.1}" y2="{at:.1}"/>"#));
            put(format!(r#"<text x="{}" y="{:.1}" text-anchor="end">{label}</text>"#, left - 8.0, at + 4.0));
        }
        for (value, label) in x.ticks(&self.x) {
            let Some(at) = x.at(value) else { continue };
            put(format!(r#"<line class="axis" x1="{at:.1}" x2="{at:.1}" y1="{bottom}" y2="{}"/>"#, bottom + 5.0));
            let place = bottom + 20.0;
            put(format!(r#"<text x="{at:.1}" y="{place}" text-anchor="middle">{}</text>"#, escaped(&label)));
        }
        put(format!(r#"<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>"#));
        let (middle, centre) = (0.5 * (left + right), 0.5 * (top + bottom));
        put(format!(
            r#"<text x="{middle}" y="{}" text-anchor="middle">{}</text>"#,
            bottom + 44.0,
            escaped(&self.x.label)
        ));
        put(format!(
            r#"<text transform="translate(18 {centre}) rotate(-90)" text-anchor="middle">{}</text>"#,
            escaped(&self.y.label)
        ));
        if let Some((at, label)) = self.mark.as_ref().and_then(|(v, label)| Some((y.at(*v)?, label))) {
            put(format!(r#"<line class="mark" x1="{left}" x2="{right}" y1="{at:.1}" y2="{at:.1}"/>"#));
            put(format!(
                r#"<text x="{}" y="{:.1}" text-anchor="end">{}</text>"#,
                right - 4.0,
                at - 6.0,
                escaped(label)
            ));
        }
        for (k, series) in self.series.iter().enumerate() {
            let colour = k % 8;
            put(format!(r#"<g class="c{colour}">"#));
            let places: Vec<_> = series.points.iter().filter_map(|p| Some((x.at(p.x)?, y.at(p.y)?, p))).collect();
            if series.is_line {
                let path = places.iter().map(|(x, y, _)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ");
                put(format!(r#"<polyline class="line" points="{path}"/>"#));
            }
            for (px, py, p) in &places {
                let (low, high) = p.interval;
                let ends = y.at(low).zip(y.at(high)).filter(|_| high > low);
                if let Some((low, high)) = ends {
                    put(format!(r#"<line class="bar" x1="{px:.1}" x2="{px:.1}" y1="{low:.1}" y2="{high:.1}"/>"#));
                }
                if !series.is_line {
                    put(format!(r#"<circle class="dot" cx="{px:.1}" cy="{py:.1}" r="4.5"/>"#));
                }
            }
            if named {
                let (from, at) = (legend.0, legend.1 + LINE * k as f64);
                put(format!(
                    r#"<line class="line" x1="{from}" x2="{}" y1="{at}" y2="{at}"/><text x="{}" y="{}">{}</text>"#,
                    from + 20.0,
                    from + 26.0,
                    at + 4.0,
                    escaped(&series.name)
                ));
            }
            put("</g>".into());
        }
        let _ = writeln!(out, "</svg>");
        out
    }
}
