//! Measurement operators `A`. Each records its nodes in the graph. Its adjoint follows from the
//! reverse pass.
//!
//! An operator's random state (mask or kernel) is a tensor of its own. It is drawn once per image
//! from the seed and saved with the measurement, so that y and A(x) always belong to the same
//! operator.

mod blur;
mod contract;
mod inpaint;
mod resize;
mod singular;
mod spectrum;

pub use blur::{GaussianBlur, MotionBlur, gaussian_taps, motion_kernel};
pub use contract::{Observed, Operator, StateOrigin};
pub use inpaint::{Inpaint, Masked};
pub use resize::{SuperResolution, cubic_taps, resize_cubic};
pub use spectrum::{Spectrum, Transform};

use crate::error::{Error, Result, nearest};
use crate::graph::{Graph, TensorId};
use crate::options::Options;
use std::sync::Arc;

/// `A(x) = x`: the task is to remove the noise only.
#[derive(Debug)]
pub struct Denoise;

impl Operator for Denoise {
    fn task(&self) -> String {
        "denoise".into()
    }
    fn build(&self, _: &mut Graph, x: TensorId, _: Option<TensorId>) -> Result<TensorId> {
        Ok(x)
    }
    fn spectrum(&self) -> Option<Spectrum<'_>> {
        Some(Spectrum::pixels(|x, _| vec![1.0; x.h * x.w]))
    }
}

/// One row per operator.
pub struct OperatorRow {
    /// Name on the command line. For super-resolution its factor follows the name.
    pub name: &'static str,
    /// Short description.
    pub about: &'static str,
    /// Its options with their defaults, as they are typed.
    pub options: &'static str,
    parse: fn(&mut Options) -> Result<Arc<dyn Operator>>,
}

/// All operators.
pub const OPERATORS: &[OperatorRow] = &[
    OperatorRow {
        name: "sr",
        about: "anti-aliased cubic down-sampling: sr2, sr4, sr8 ...",
        options: "",
        parse: resize::parse,
    },
    OperatorRow {
        name: "gaussian-blur",
        about: "Gaussian blur, reflecting at the boundary",
        options: "size=61,sigma=3",
        parse: blur::parse_gaussian,
    },
    OperatorRow {
        name: "motion-blur",
        about: "blur along a random path; length in kernel sizes, spread of the angle in radians. Or by a picture of the \
                point spread function: what a point of the image becomes (y = x * kernel, a convolution)",
        options: "size=61,length=0.5,spread=0.6,kernel=FILE",
        parse: blur::parse_motion,
    },
    OperatorRow {
        name: "inpaint-box",
        about: "a box is missing; its side over the image's",
        options: "side=0.5",
        parse: inpaint::parse_box,
    },
    OperatorRow {
        name: "inpaint-random",
        about: "this share of the pixels is missing",
        options: "missing=0.7",
        parse: inpaint::parse_random,
    },
    OperatorRow {
        name: "inpaint-mask",
        about: "pixels that are black in a mask picture are missing",
        options: "mask=FILE",
        parse: inpaint::parse_mask,
    },
    OperatorRow { name: "denoise", about: "nothing but noise", options: "", parse: |_| Ok(Arc::new(Denoise)) },
];

/// Words that other software uses for tasks, with the names of these tasks here.
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

/// The task that a user probably means by an unknown name.
fn meant_task(name: &str) -> String {
    let plain = name.to_ascii_lowercase();
    match OTHER_NAMES.iter().find(|(other, _)| plain.contains(other)) {
        Some((_, "sr")) => {
            let factor = plain.trim_start_matches(|c: char| !c.is_ascii_digit());
            let factor = factor.trim_end_matches(|c: char| !c.is_ascii_digit());
            format!("sr{}", if factor.parse::<usize>().is_ok() { factor } else { "4" })
        }
        Some((_, task)) if !OPERATORS.iter().any(|o| strsim::jaro_winkler(name, o.name) > 0.9) => task.to_string(),
        _ => {
            let names = OPERATORS.iter().map(|o| if o.name == "sr" { "sr4" } else { o.name });
            nearest(name, names).unwrap_or_default().to_string()
        }
    }
}

/// Parses a task such as `sr4` or `gaussian-blur:sigma=2`. Fails on an unknown name; the error then
/// suggests a known name.
pub fn parse_task(task: &str) -> Result<Arc<dyn Operator>> {
    let name = task.split(':').next().unwrap_or_default();
    let factor = name.strip_prefix("sr").filter(|s| s.starts_with(|c: char| c.is_ascii_digit()));
    let name = factor.map_or(name, |_| "sr");
    let Some(row) = OPERATORS.iter().find(|o| o.name == name) else {
        let meant = meant_task(name);
        return Err(Error::Invalid(format!("unknown task {task}: did you mean {meant}? `dmap tasks` lists all")));
    };
    let (_, mut options) = Options::parse("task", task, |_| row.options.to_string())?;
    if let Some(factor) = factor {
        options.give("factor", factor)?;
    }
    let operator = (row.parse)(&mut options)?;
    options.finish(row.options)?;
    Ok(operator)
}
