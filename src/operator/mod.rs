//! Measurement operators `A`. Each builds its piece of the graph; its adjoint is the reverse walk.
//!
//! An operator's random state (mask, kernel) is a tensor of its own, drawn once per image from the seed and saved with
//! the measurement, so that y and A(x) always speak of the same operator.

mod blur;
mod inpaint;
mod resize;

pub use blur::{GaussianBlur, MotionBlur, gaussian_taps, motion_kernel};
pub use inpaint::{Inpaint, Masked, nearest_fill};
pub use resize::{SuperResolution, cubic_taps, resize_cubic};

use crate::error::{Error, Result};
use crate::graph::{Graph, Shape, TensorId};
use crate::image::Picture;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A known map from images to measurements, both in [-1, 1].
pub trait Operator: std::fmt::Debug + Send + Sync {
    /// The task as it is written on the command line, options included.
    fn task(&self) -> String;

    /// Extent of the measurement of images of extent `x`.
    fn measurement_shape(&self, x: Shape) -> Shape {
        x
    }

    /// Extent of the image behind a measurement of extent `y`.
    fn image_shape(&self, y: Shape) -> Shape {
        y
    }

    /// Extent of the operator's state for images of extent `x`, if it has one.
    fn state_shape(&self, _x: Shape) -> Option<Shape> {
        None
    }

    /// The state for one image of extent `x` (n = 1).
    fn draw_state(&self, _x: Shape, _seed: u64) -> Result<Vec<f32>> {
        Ok(Vec::new())
    }

    /// Fails if images of extent `x` can't be measured.
    fn check(&self, _x: Shape) -> Result<()> {
        Ok(())
    }

    /// Records `A(x)`.
    fn build(&self, g: &mut Graph, x: TensorId, state: Option<TensorId>) -> Result<TensorId>;

    /// What published PSLD code has in place of A^T, for images of extent `x`: of a blur the identity, of a reduction the nearest
    /// pixels. Of a mask it is the adjoint itself.
    fn published_transpose(&self, _: &mut Graph, y: TensorId, _x: Shape) -> Result<TensorId> {
        Ok(y)
    }

    /// A naive restoration that results are compared with, and its name.
    fn baseline(&self, y: &Picture, _state: &[f32], _x: Shape) -> (&'static str, Picture) {
        ("measurement", y.clone())
    }

    /// The measurement as a person would look at it: of the image's size, for the side-by-side picture.
    fn view(&self, y: &Picture, _state: &[f32], _x: Shape) -> Picture {
        y.clone()
    }

    /// True of blurs: filters whose [`Operator::power`] differs much between frequencies.
    fn is_blur(&self) -> bool {
        false
    }

    /// |A|^2 of a blur at the frequencies (pi k / h, pi l / w) of the cosine transform of images of extent `x` (n = 1), k by k; of
    /// other operators empty.
    fn power(&self, _x: Shape, _state: &[f32]) -> Vec<f64> {
        Vec::new()
    }

    /// True where A(a x + b z) = a A(x) + b A(z).
    fn is_linear(&self) -> bool {
        true
    }
}

/// `A(x) = x`: only the noise is to be removed.
#[derive(Debug)]
pub struct Denoise;

impl Operator for Denoise {
    fn task(&self) -> String {
        "denoise".into()
    }
    fn build(&self, _: &mut Graph, x: TensorId, _: Option<TensorId>) -> Result<TensorId> {
        Ok(x)
    }
}

type Parse = fn(&mut Options) -> Result<Arc<dyn Operator>>;

/// One row per operator: name, options with defaults, what it does, how it is made.
pub const OPERATORS: &[(&str, &str, &str, Parse)] = &[
    ("sr", "", "anti-aliased cubic down-sampling: sr2, sr4, sr8 ...", resize::parse),
    ("gaussian-blur", "size=61,sigma=3", "Gaussian blur, reflecting at the boundary", blur::parse_gaussian),
    (
        "motion-blur",
        "size=61,length=0.5,spread=0.6,kernel=FILE",
        "blur along a random path; length in kernel sizes, spread of the angle in radians; or a kernel picture",
        blur::parse_motion,
    ),
    ("inpaint-box", "side=0.5", "a box is missing; its side over the image's", inpaint::parse_box),
    ("inpaint-random", "missing=0.7", "this share of the pixels is missing", inpaint::parse_random),
    ("inpaint-mask", "mask=FILE", "pixels that are black in a mask picture are missing", inpaint::parse_mask),
    ("denoise", "", "nothing but noise", |_| Ok(Arc::new(Denoise))),
];

/// Options of a task: `name:key=value,key=value`.
pub struct Options {
    task: String,
    /// What follows the name directly, as the 4 of `sr4`.
    suffix: String,
    values: BTreeMap<String, String>,
}

impl Options {
    /// Takes option `key` as a number within `range`.
    fn number(&mut self, key: &str, default: f64, range: std::ops::RangeInclusive<f64>) -> Result<f64> {
        let Some(text) = self.values.remove(key) else { return Ok(default) };
        let value = text.parse().ok().filter(|v| range.contains(v));
        value.ok_or_else(|| {
            let (low, high) = range.into_inner();
            Error::Invalid(format!("task {}: {key} is {text}, expected a number from {low} to {high}", self.task))
        })
    }

    /// Takes option `key` as a file name.
    fn file(&mut self, key: &str) -> Option<String> {
        self.values.remove(key)
    }
}

/// Parses a task such as `sr4` or `gaussian-blur:sigma=2`. An unknown name gets the nearest suggestion.
pub fn parse_task(task: &str) -> Result<Arc<dyn Operator>> {
    let (name, rest) = task.split_once(':').unwrap_or((task, ""));
    let numbered = name.strip_prefix("sr").filter(|s| s.starts_with(|c: char| c.is_ascii_digit()));
    let (name, suffix) = numbered.map_or((name, ""), |s| ("sr", s));
    let Some((_, known, _, parse)) = OPERATORS.iter().find(|o| o.0 == name) else {
        let names = OPERATORS.iter().map(|o| if o.0 == "sr" { "sr4" } else { o.0 });
        let nearest = names.max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)));
        return Err(Error::Invalid(format!(
            "unknown task {task}: did you mean {}? `dmap tasks` lists all",
            nearest.unwrap_or_default()
        )));
    };
    let mut options = Options { task: task.into(), suffix: suffix.into(), values: BTreeMap::new() };
    for part in rest.split(',').filter(|p| !p.is_empty()) {
        let Some((key, value)) = part.split_once('=') else {
            return Err(Error::Invalid(format!("task {task}: {part} should be key=value (options: {known})")));
        };
        options.values.insert(key.trim().into(), value.trim().into());
    }
    let operator = parse(&mut options)?;
    match options.values.keys().next() {
        Some(key) => Err(Error::Invalid(format!("task {task}: unknown option {key} (options: {known})"))),
        None => Ok(operator),
    }
}
