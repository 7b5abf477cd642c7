//! An operator that the user gives as a network of convolutions.

use super::contract::{Operator, StateOrigin, check_colour};
use crate::error::{Error, Result, shown};
use crate::graph::{Graph, TensorId};
use crate::ops::conv::Conv;
use crate::ops::pointwise::{Clamp, Gelu, LeakyRelu, Silu};
use crate::ops::resample::{Pool, Upsample};
use crate::options::Options;
use crate::tensor::Shape;
use crate::weights::Checkpoint;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `A(x)`: layers one after the other, from a JSON file
///
/// ```json
/// {"weights": "net.safetensors",
///  "layers": [{"conv": "head", "stride": 2}, {"act": "relu"}, {"conv": "tail"}]}
/// ```
///
/// A layer is `conv`, the name of a convolution with tensors NAME.weight (out, in, k, k) and
/// NAME.bias, k = 1 or 3, of stride 1 (or 2 with k = 3), padded with zeros so that k changes no
/// size; `act`, one of relu, silu, gelu, clamp (to [-1, 1]); or `resize`, one of pool (means of 2x2)
/// and nearest (doubled). The image and the result are in [-1, 1], and the result has one or three
/// channels.
#[derive(Debug)]
pub struct NetworkOperator {
    /// The JSON file.
    pub file: String,
    /// The file of the weights.
    weights: PathBuf,
    layers: Vec<Layer>,
}

#[derive(Debug)]
enum Layer {
    Conv {
        name: String,
        stride: usize,
        kernel: usize,
        channels: [usize; 2],
        weight: Arc<Vec<f32>>,
        bias: Arc<Vec<f32>>,
    },
    Relu,
    Silu,
    Gelu,
    Clamp,
    Pool,
    Nearest,
}

impl Layer {
    /// How often the layer doubles the sides of its input; -1 if it halves them.
    fn doublings(&self) -> i32 {
        match self {
            Layer::Nearest => 1,
            Layer::Pool | Layer::Conv { stride: 2, .. } => -1,
            _ => 0,
        }
    }
}

/// Most doublings of the sides of an image by all layers up to any of them, and most halvings.
const MOST_DOUBLINGS: i32 = 4;
const MOST_HALVINGS: i32 = 12;

/// The JSON file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    weights: String,
    layers: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    conv: Option<String>,
    stride: Option<usize>,
    act: Option<String>,
    resize: Option<String>,
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Operator>> {
    let file = options.text("file").ok_or_else(|| Error::Invalid("write network:file=FILE.json".into()))?;
    let (weights, layers) = read(file.as_ref())?;
    Ok(Arc::new(NetworkOperator { file, weights, layers }))
}

/// The file of the weights, and the layers.
fn read(path: &Path) -> Result<(PathBuf, Vec<Layer>)> {
    let error = |reason: String| Error::Invalid(format!("{}: {reason}", shown(path)));
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let found: Description =
        serde_json::from_slice(&bytes).map_err(|e| error(format!("it is not the JSON file of a network: {e}")))?;
    if found.layers.is_empty() {
        return Err(error("it has no layers".into()));
    }
    // The weights lie beside the JSON file.
    let file = path.with_file_name(&found.weights);
    let weights = Checkpoint::open(&file)?;
    let mut channels = 3;
    let mut layers = Vec::new();
    for (k, step) in found.layers.iter().enumerate() {
        let wrong = |reason: &str| error(format!("layer {}: {reason}", k + 1));
        let layer = match (step.conv.as_deref(), step.act.as_deref(), step.resize.as_deref()) {
            (Some(name), None, None) => match step.stride.unwrap_or(1) {
                stride @ (1 | 2) => conv(&weights, name, stride, channels)?,
                other => return Err(wrong(&format!("stride {other}; 1 and 2 are possible"))),
            },
            (None, Some("relu"), None) => Layer::Relu,
            (None, Some("silu"), None) => Layer::Silu,
            (None, Some("gelu"), None) => Layer::Gelu,
            (None, Some("clamp"), None) => Layer::Clamp,
            (None, None, Some("pool")) => Layer::Pool,
            (None, None, Some("nearest")) => Layer::Nearest,
            (None, Some(act), None) => return Err(wrong(&format!("act {act}; relu, silu, gelu and clamp are known"))),
            (None, None, Some(resize)) => return Err(wrong(&format!("resize {resize}; pool and nearest are known"))),
            _ => return Err(wrong("give one of conv, act and resize")),
        };
        if let Layer::Conv { channels: [_, out], .. } = &layer {
            channels = *out;
        } else if step.stride.is_some() {
            return Err(wrong("only a conv has a stride"));
        }
        layers.push(layer);
        let doublings = layers.iter().map(Layer::doublings).sum::<i32>();
        if !(-MOST_HALVINGS..=MOST_DOUBLINGS).contains(&doublings) {
            return Err(wrong(&format!(
                "an image can be doubled {MOST_DOUBLINGS} times in all and halved {MOST_HALVINGS} times"
            )));
        }
    }
    match channels {
        1 | 3 => Ok((file, layers)),
        _ => Err(error(format!("the last convolution gives {channels} channels; a measurement has 1 or 3"))),
    }
}

fn conv(file: &Checkpoint, name: &str, stride: usize, channels: usize) -> Result<Layer> {
    let (weight_name, bias_name) = (format!("{name}.weight"), format!("{name}.bias"));
    let Some(shape) = file.tensors.get(&weight_name).map(|t| t.shape.clone()) else {
        return Err(file.error(format!("it has no tensor {weight_name}, which the JSON file names")));
    };
    let (out, kernel) = match shape[..] {
        [out, c, k, l] if c == channels && k == l && (k == 3 || k == 1 && stride == 1) => (out, k),
        _ => {
            return Err(file.error(format!(
                "tensor {weight_name} should have shape (any, {channels}, k, k) with k = 3, or 1 with stride 1, but has \
                 {shape:?} and stride {stride}"
            )));
        }
    };
    let weight = file.values_as(&weight_name, Shape::new(out, kernel, kernel, channels))?;
    let bias = file.values_as(&bias_name, Shape::vector(out))?;
    let (weight, bias) = (Arc::new(weight), Arc::new(bias));
    Ok(Layer::Conv { name: name.into(), stride, kernel, channels: [channels, out], weight, bias })
}

impl NetworkOperator {
    /// The operator's measurement shape, or why images of shape `x` can't be measured.
    fn shape(&self, x: Shape) -> std::result::Result<Shape, String> {
        let mut s = x;
        for (k, layer) in self.layers.iter().enumerate() {
            match layer {
                Layer::Conv { stride, channels: [_, out], .. } => {
                    s = Shape { h: s.h.div_ceil(*stride), w: s.w.div_ceil(*stride), c: *out, ..s };
                }
                Layer::Pool if s.h % 2 != 0 || s.w % 2 != 0 => {
                    return Err(format!("layer {}: pool halves even sizes only, here {}x{}", k + 1, s.w, s.h));
                }
                Layer::Pool => s = Shape { h: s.h / 2, w: s.w / 2, ..s },
                Layer::Nearest => s = Shape { h: 2 * s.h, w: 2 * s.w, ..s },
                Layer::Relu | Layer::Silu | Layer::Gelu | Layer::Clamp => {}
            }
        }
        Ok(s)
    }
}

impl Operator for NetworkOperator {
    fn task(&self) -> String {
        format!("network:file={}", self.file)
    }
    fn measurement_shape(&self, x: Shape) -> Shape {
        self.shape(x).unwrap_or(x)
    }
    fn image_shape(&self, y: Shape) -> Shape {
        let doublings = self.layers.iter().map(Layer::doublings).sum::<i32>();
        let of = |n: usize| if doublings < 0 { n << -doublings } else { (n >> doublings).max(1) };
        Shape { h: of(y.h), w: of(y.w), c: 3, ..y }
    }
    fn state_origin(&self) -> StateOrigin<'_> {
        StateOrigin::File(self.file.as_ref())
    }
    fn files(&self) -> Vec<PathBuf> {
        vec![self.file.clone().into(), self.weights.clone()]
    }
    fn check(&self, x: Shape) -> Result<()> {
        check_colour(self, x)?;
        self.shape(x).map(|_| ()).map_err(|reason| Error::Invalid(format!("{}: {reason}", self.task())))
    }
    fn build(&self, g: &mut Graph, x: TensorId, _: Option<TensorId>) -> Result<TensorId> {
        let last = self.layers.iter().rposition(|layer| matches!(layer, Layer::Conv { .. }));
        let mut x = x;
        for (k, layer) in self.layers.iter().enumerate() {
            let node = format!("operator.{k}");
            x = match layer {
                Layer::Conv { name, stride, kernel, channels: [c, out], weight, bias } => {
                    let shape = Shape::new(*out, *kernel, *kernel, *c);
                    let weight = g.stored_constant(&format!("operator.{name}.weight"), shape, weight);
                    let bias = g.stored_constant(&format!("operator.{name}.bias"), Shape::vector(*out), bias);
                    let op = Conv { single: Some(k) == last, ..Conv::new(*kernel, *stride) };
                    g.one(op, &node, &[x, weight, bias])?
                }
                Layer::Relu => g.one(LeakyRelu { slope: 0.0 }, &node, &[x])?,
                Layer::Silu => g.one(Silu, &node, &[x])?,
                Layer::Gelu => g.one(Gelu { quick: false }, &node, &[x])?,
                Layer::Clamp => g.one(Clamp { low: -1.0, high: 1.0 }, &node, &[x])?,
                Layer::Pool => g.one(Pool { gain: 0.25 }, &node, &[x])?,
                Layer::Nearest => g.one(Upsample { gain: 1.0 }, &node, &[x])?,
            };
        }
        Ok(x)
    }
    fn is_linear(&self) -> bool {
        false
    }
}
