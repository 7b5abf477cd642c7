//! Measurement operators `A`. Each records its nodes in the graph. Its adjoint follows from the
//! reverse pass.
//!
//! An operator's random state (mask or kernel) is a tensor of its own. It is drawn once per image
//! from the seed and saved with the measurement, so that y and A(x) always belong to the same
//! operator.

mod baseline;
mod blur;
mod colour;
mod composition;
mod compressed_sensing;
mod contract;
mod edge;
mod inpaint;
mod jpeg;
mod kernel_blur;
mod matrix;
mod network;
mod nonlinear_blur;
mod phase_retrieval;
mod resize;
mod separable_blur;
mod singular;
mod spectrum;

pub(crate) use baseline::baseline_on_canvas;
pub use baseline::{baseline, nearest_fill};
pub use colour::{Colorize, Demosaic, Hdr};
pub use composition::Composition;
pub use compressed_sensing::CompressedSensing;
pub use contract::{Observed, Operator, StateOrigin};
pub use edge::Edge;
pub use inpaint::{Inpaint, Masked};
pub use jpeg::{Jpeg, JpegGradient};
pub use kernel_blur::{AnisotropicBlur, MotionBlur, motion_kernel};
pub use matrix::Matrix;
pub use network::NetworkOperator;
pub use nonlinear_blur::NonlinearBlur;
pub use phase_retrieval::PhaseRetrieval;
pub use resize::{Resize, SuperResolution, cubic_taps, resize_cubic};
pub use separable_blur::{AxisKernel, SeparableBlur};
pub(crate) use spectrum::SizedTransform;
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
        name: "sr-average",
        about: "means over squares of pixels",
        options: "factor=4",
        parse: resize::parse_average,
    },
    OperatorRow {
        name: "sr-bicubic",
        about: "cubic down-sampling as PyTorch does it, with or without antialias, as MATLAB (sr) or as deepinv",
        options: "factor=4,like=pytorch|pytorch-aliased|matlab|deepinv",
        parse: resize::parse_bicubic,
    },
    OperatorRow {
        name: "gaussian-blur",
        about: "Gaussian blur",
        options: "size=61,sigma=3,boundary=reflect|circular|valid",
        parse: separable_blur::parse_gaussian,
    },
    OperatorRow {
        name: "uniform-blur",
        about: "means over squares around every pixel",
        options: "size=9,boundary=reflect|circular|valid",
        parse: separable_blur::parse_uniform,
    },
    OperatorRow {
        name: "anisotropic-blur",
        about: "Gaussian blur with one sigma along a direction (degrees, counter-clockwise) and another across it",
        options: "size=9,sigma=20,across=1,angle=0,boundary=reflect|circular",
        parse: kernel_blur::parse_anisotropic,
    },
    OperatorRow {
        name: "motion-blur",
        about: "blur along a random path; length in kernel sizes, spread of the angle in radians. Or by a picture of the \
                point spread function: what a point of the image becomes (y = x * kernel, a convolution)",
        options: "size=61,length=0.5,spread=0.6,kernel=FILE,boundary=reflect|circular",
        parse: kernel_blur::parse_motion,
    },
    OperatorRow {
        name: "nonlinear-blur",
        about: "blur by a network and a drawn kernel (BKSE); FILE is its checkpoint, such as GOPRO_wVAE.pth",
        options: "file=FILE,scale=1.2",
        parse: nonlinear_blur::parse,
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
    OperatorRow {
        name: "colorize",
        about: "a grey picture: the luma or the mean of the channels",
        options: "weights=luma|mean",
        parse: colour::parse_colorize,
    },
    OperatorRow {
        name: "demosaic",
        about: "one channel per pixel, as a sensor under a Bayer filter sees it",
        options: "",
        parse: |_| Ok(Arc::new(Demosaic)),
    },
    OperatorRow {
        name: "hdr",
        about: "the range is stretched and clipped",
        options: "gain=2",
        parse: colour::parse_hdr,
    },
    OperatorRow {
        name: "jpeg",
        about: "compressed with this quality; the gradient is an approximation: it passes the rounding, or that of a cubic",
        options: "quality=25,gradient=straight|cubic",
        parse: jpeg::parse,
    },
    OperatorRow {
        name: "compressed-sensing",
        about: "this share of the Walsh-Hadamard coefficients of every block",
        options: "block=32,kept=0.25",
        parse: compressed_sensing::parse,
    },
    OperatorRow {
        name: "phase-retrieval",
        about: "the moduli of the Fourier transform of the image within zeros, oversampling/8 of its size on each side",
        options: "oversampling=2",
        parse: phase_retrieval::parse,
    },
    OperatorRow {
        name: "edge",
        about: "thin edges: the first half of Canny's method",
        options: "",
        parse: |_| Ok(Arc::new(Edge)),
    },
    OperatorRow {
        name: "matrix",
        about: "a sparse matrix, in Matrix Market's format, of a column per pixel",
        options: "file=FILE,width=W,height=H",
        parse: matrix::parse,
    },
    OperatorRow {
        name: "network",
        about: "convolutions, from a JSON file that names their weights",
        options: "file=FILE.json",
        parse: network::parse,
    },
    OperatorRow { name: "denoise", about: "nothing but noise", options: "", parse: |_| Ok(Arc::new(Denoise)) },
];

/// Words that other software uses for tasks, with the names of these tasks here.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("nonlinear", "nonlinear-blur"),
    ("bkse", "nonlinear-blur"),
    ("mosaic", "demosaic"),
    ("bayer", "demosaic"),
    ("color", "colorize"),
    ("colour", "colorize"),
    ("aniso", "anisotropic-blur"),
    ("uniform", "uniform-blur"),
    ("hadamard", "compressed-sensing"),
    ("cs_", "compressed-sensing"),
    ("phase", "phase-retrieval"),
    ("jpg", "jpeg"),
    ("canny", "edge"),
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

/// True if a task begins with the name of an operator.
fn starts_with_name(task: &str) -> bool {
    let name = task.split([':', '+']).next().unwrap_or_default();
    let is_factor = |f: &str| !f.is_empty() && f.bytes().all(|b| b.is_ascii_digit());
    OPERATORS.iter().any(|o| o.name == name) || name.strip_prefix("sr").is_some_and(is_factor)
}

/// True if the + at `at` ends a task. It may also be part of a file's name or of a number.
fn is_seam(task: &str, at: usize) -> bool {
    let option = task[..at].rsplit([',', ':']).next().unwrap_or_default();
    let is_file = ["kernel=", "mask=", "file="].iter().any(|key| option.starts_with(key));
    let after = task[at + 1..].trim_start();
    starts_with_name(after) || !is_file && !after.starts_with(|c: char| c.is_ascii_digit())
}

/// Parses a task such as `sr4` or `gaussian-blur:sigma=2`, or several with a `+` between them, of
/// which each sees what the one before makes. Fails on an unknown name; the error then suggests a
/// known name.
pub fn parse_task(task: &str) -> Result<Arc<dyn Operator>> {
    let seam = task.match_indices('+').rev().find(|(at, _)| is_seam(task, *at));
    match seam {
        Some((at, _)) if task[..at].trim().is_empty() || task[at + 1..].trim().is_empty() => {
            Err(Error::Invalid(format!("task {task}: a task is missing beside a +")))
        }
        Some((at, _)) => {
            let (first, second) = (parse_task(&task[..at])?, parse_one(&task[at + 1..])?);
            Ok(Arc::new(Composition { first, second }))
        }
        None => parse_one(task),
    }
}

fn parse_one(task: &str) -> Result<Arc<dyn Operator>> {
    let task = task.trim();
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
