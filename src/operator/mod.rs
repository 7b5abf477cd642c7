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

use crate::error::{Error, Result, nearest};
use crate::graph::{Graph, Shape, TensorId};
use crate::image::Picture;
use std::collections::BTreeMap;
use std::path::Path;
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

    /// Where the state comes from.
    fn state_origin(&self) -> StateOrigin<'_> {
        StateOrigin::None
    }

    /// Fails on values that can't be the state of one image of extent `x`; their number is right.
    fn check_state(&self, _x: Shape, _state: &[f32]) -> Result<()> {
        Ok(())
    }

    /// Which values of y hold a measurement: the others get no noise and are not counted in its norm.
    fn observed<'a>(&self, _state: &'a [f32]) -> Observed<'a> {
        Observed::All
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

/// Where an operator's state comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StateOrigin<'a> {
    /// There is none: the task says all.
    None,
    /// It is drawn from a seed. `given` is the task that takes it from a file.
    Drawn {
        /// How that task is written.
        given: &'static str,
    },
    /// It is read from this file.
    File(&'a Path),
}

/// Which values of a measurement y hold one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Observed<'a> {
    /// All of them.
    All,
    /// Those of the pixels where this mask, (h, w) of y, is not 0.
    Mask(&'a [f32]),
}

impl Observed<'_> {
    /// True if value `i` of the `len` values of y holds a measurement.
    pub fn includes(self, i: usize, len: usize) -> bool {
        match self {
            Observed::All => true,
            Observed::Mask(mask) => mask[i / (len / mask.len())] != 0.0,
        }
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
        "blur along a random path; length in kernel sizes, spread of the angle in radians. Or by a picture of the point \
         spread function: what a point of the image becomes (y = x * kernel, a convolution)",
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

/// Words that other software has for tasks, and what they are called here.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("bicubic", "sr"),
    ("super", "sr"),
    ("upscal", "sr"),
    ("downsampl", "sr"),
    ("deblur_gauss", "gaussian-blur"),
    ("deblur", "gaussian-blur"),
    ("gauss", "gaussian-blur"),
    ("motion", "motion-blur"),
    ("box", "inpaint-box"),
    ("random", "inpaint-random"),
    ("mask", "inpaint-mask"),
    ("noise", "denoise"),
];

/// The task that a user means by a name that is none.
fn meant_task(name: &str) -> String {
    let plain = name.to_ascii_lowercase();
    match OTHER_NAMES.iter().find(|(other, _)| plain.contains(other)) {
        Some((_, "sr")) => {
            let factor = plain.trim_start_matches(|c: char| !c.is_ascii_digit());
            let factor = factor.trim_end_matches(|c: char| !c.is_ascii_digit());
            format!("sr{}", if factor.parse::<usize>().is_ok() { factor } else { "4" })
        }
        Some((_, task)) if !OPERATORS.iter().any(|o| strsim::jaro_winkler(name, o.0) > 0.9) => task.to_string(),
        _ => {
            let names = OPERATORS.iter().map(|o| if o.0 == "sr" { "sr4" } else { o.0 });
            nearest(name, names).unwrap_or_default().to_string()
        }
    }
}

/// Parses a task such as `sr4` or `gaussian-blur:sigma=2`. An unknown name gets the nearest suggestion.
pub fn parse_task(task: &str) -> Result<Arc<dyn Operator>> {
    let (name, rest) = task.split_once(':').unwrap_or((task, ""));
    let numbered = name.strip_prefix("sr").filter(|s| s.starts_with(|c: char| c.is_ascii_digit()));
    let (name, suffix) = numbered.map_or((name, ""), |s| ("sr", s));
    let Some((_, known, _, parse)) = OPERATORS.iter().find(|o| o.0 == name) else {
        let meant = meant_task(name);
        return Err(Error::Invalid(format!("unknown task {task}: did you mean {meant}? `dmap tasks` lists all")));
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
