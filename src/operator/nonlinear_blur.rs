//! Blur by a network: the generator of the blur kernel space (BKSE, Tran et al. 2021, "Explore
//! Image Deblurring via Encoded Blur Kernel Space"), as DPS uses it for nonlinear deblurring.

use super::contract::{Operator, StateOrigin, check_colour};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::noise::{Draw, NoiseKey, fill_normal};
use crate::ops::add::{Add, Scale};
use crate::ops::axis_filter::Taps;
use crate::ops::conv::{Conv, ConvExtra, ConvInputs};
use crate::ops::pixel_shuffle::PixelShuffle;
use crate::ops::pointwise::{Clamp, HyperbolicTangent, LeakyRelu};
use crate::ops::storage_copy::StorageCopy;
use crate::options::Options;
use crate::tensor::Shape;
use crate::weights::Checkpoint;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// `A(x) = clip(2 G(x / 2 + 1/2, k) - 1)`: the generator G blurs an image in [0, 1] by an encoded
/// kernel k. The state is k, of normal numbers times `scale`, one for each image. Published code
/// draws it anew at every call, so that y and A(x) have different kernels.
#[derive(Debug)]
pub struct NonlinearBlur {
    /// The checkpoint, such as GOPRO_wVAE.pth.
    pub file: PathBuf,
    /// Standard deviation of the values of k.
    pub scale: f64,
    /// Convolutions by their names in the checkpoint.
    weights: BTreeMap<String, Weights>,
    /// Residual blocks before and after the kernel is applied.
    blocks: [usize; 2],
    /// Channels of k.
    channels: usize,
}

/// A convolution's weight in the order of the graph, and its bias if it has one.
#[derive(Debug)]
struct Weights {
    shape: Shape,
    weight: Arc<Vec<f32>>,
    bias: Option<Arc<Vec<f32>>>,
}

/// Pixels of the image for one pixel of k: two convolutions and the levels of the U-Net halve it.
const SIDE: usize = 4 << LEVELS;
/// Levels of the U-Net that applies k.
const LEVELS: usize = 5;

/// Name of a convolution of the U-Net: downwards, or one of the two upwards.
fn down(level: usize) -> String {
    // The outermost level has no activation before its convolution.
    format!("adapter.model{}.down.{}", ".submodule".repeat(level), usize::from(level > 0))
}
fn up(level: usize, which: usize) -> String {
    format!("adapter.model{}.up.1.double_conv.{}", ".submodule".repeat(level), 2 * which)
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Operator>> {
    let file = options.text("file").ok_or_else(|| Error::Invalid("write nonlinear-blur:file=GOPRO_wVAE.pth".into()))?;
    let scale = options.number("scale", 1.2, 0.0..=10.0)?;
    Ok(Arc::new(NonlinearBlur::open(file.into(), scale)?))
}

/// Reads the convolutions of a checkpoint, each with the inputs and outputs that it should have.
struct Reader {
    file: Checkpoint,
    weights: BTreeMap<String, Weights>,
}

impl Reader {
    /// The extents of a weight: (out, in, k, k).
    fn extents(&self, name: &str) -> Result<[usize; 4]> {
        let name = format!("{name}.weight");
        let found = self.file.tensors.get(&name).map(|t| t.shape.clone());
        found.and_then(|shape| shape.try_into().ok()).ok_or_else(|| {
            self.file.error(format!(
                "it has no convolution {name}; a checkpoint of the generator of blur kernels has, such as GOPRO_wVAE.pth"
            ))
        })
    }

    /// Blocks `prefix.N.conv1` from number `first` on.
    fn blocks(&self, prefix: &str, first: usize) -> usize {
        let has = |k: &usize| self.file.tensors.contains_key(&format!("{prefix}.{}.conv1.weight", first + k));
        (0..).take_while(has).count()
    }

    fn conv(&mut self, name: &str, kernel: usize, [from, to]: [usize; 2], has_bias: bool) -> Result<()> {
        let shape = Shape::new(to, kernel, kernel, from);
        let read = |what: &str, shape| self.file.values_as(&format!("{name}.{what}"), shape).map(Arc::new);
        let weight = read("weight", shape)?;
        let bias = if has_bias { Some(read("bias", Shape::vector(to))?) } else { None };
        self.weights.insert(name.into(), Weights { shape, weight, bias });
        Ok(())
    }
}

impl NonlinearBlur {
    /// Reads the generator from a checkpoint of all networks of the method.
    pub fn open(file: PathBuf, scale: f64) -> Result<NonlinearBlur> {
        let mut r = Reader { file: Checkpoint::open(&file)?, weights: BTreeMap::new() };
        let [n, image, _, _] = r.extents("feature_extractor.0")?;
        if image != 3 {
            return Err(r.file.error(format!("it blurs images of {image} channels; three are expected")));
        }
        let inner = |level: usize| n << level.min(3);
        let middle = r.extents(&up(LEVELS - 1, 0))?[1];
        let Some(channels) = middle.checked_sub(inner(LEVELS - 1)).filter(|&c| c > 0) else {
            return Err(r
                .file
                .error(format!("the middle of its U-Net reads {middle} channels, which leaves none for k")));
        };
        for (k, from) in [3, n, n].into_iter().enumerate() {
            r.conv(&format!("feature_extractor.{}", 2 * k), 3, [from, n], true)?;
        }
        let blocks = [r.blocks("feature_extractor", 6), r.blocks("recon_trunk", 0)];
        for (prefix, first, count) in [("feature_extractor", 6, blocks[0]), ("recon_trunk", 0, blocks[1])] {
            for (block, which) in (0..count).flat_map(|block| [(block, 1), (block, 2)]) {
                r.conv(&format!("{prefix}.{}.conv{which}", first + block), 3, [n, n], true)?;
            }
        }
        for level in 0..LEVELS {
            let outer = if level == 0 { n } else { inner(level - 1) };
            // Upwards a level reads what is below it and, of the same size, what it made downwards.
            let below = if level + 1 == LEVELS { channels } else { inner(level) };
            r.conv(&down(level), 4, [outer, inner(level)], false)?;
            r.conv(&up(level, 0), 5, [inner(level) + below, outer], true)?;
            r.conv(&up(level, 1), 5, [outer, outer], true)?;
        }
        let last = blocks[1];
        let wide = r.extents(&format!("recon_trunk.{}", last + 3))?[0] / 4;
        for (k, channels) in [(0, [n, 4 * n]), (3, [n, 4 * wide]), (6, [wide, wide]), (8, [wide, 3])] {
            r.conv(&format!("recon_trunk.{}", last + k), 3, channels, true)?;
        }
        Ok(NonlinearBlur { file, scale, weights: r.weights, blocks, channels })
    }
}

/// The generator while it is recorded. Names are those of the checkpoint.
struct Generator<'a> {
    g: &'a mut Graph,
    operator: &'a NonlinearBlur,
}

impl Generator<'_> {
    /// A convolution that reads `x` and the channels of the inputs' `second`, and adds their
    /// `addend`.
    fn conv_of(&mut self, op: Conv, name: &str, x: TensorId, extra: ConvExtra<TensorId>) -> Result<TensorId> {
        let Weights { shape, weight, bias } = &self.operator.weights[name];
        let node = format!("operator.{name}");
        let mut stored = |what: &str, shape, values| self.g.stored_constant(&format!("{node}.{what}"), shape, values);
        let weight = stored("weight", *shape, weight);
        let bias = bias.as_ref().map(|bias| stored("bias", Shape::vector(shape.n), bias));
        let ConvExtra { item_bias, addend, second } = extra;
        let inputs = ConvInputs { x, weight, bias, item_bias, addend, second };
        let op = Conv { bias: bias.is_some(), addend: addend.is_some(), second: second.is_some(), ..op };
        self.g.one(op, &node, &inputs.to_vec())
    }

    fn conv(&mut self, name: &str, x: TensorId) -> Result<TensorId> {
        self.conv_of(Conv::new(3, 1), name, x, ConvExtra::NONE)
    }

    /// The rectified linear unit with this slope below 0.
    fn relu(&mut self, name: &str, slope: f32, x: TensorId) -> Result<TensorId> {
        self.g.one(LeakyRelu { slope }, &format!("operator.{name}.relu"), &[x])
    }

    /// x + conv2(relu(conv1(x))), `count` times.
    fn blocks(&mut self, prefix: &str, first: usize, count: usize, x: TensorId) -> Result<TensorId> {
        let mut x = x;
        for k in first..first + count {
            let [one, two] = [1, 2].map(|which| format!("{prefix}.{k}.conv{which}"));
            let inside = self.conv(&one, x)?;
            let inside = self.relu(&one, 0.0, inside)?;
            let extra = ConvExtra { addend: Some(x), ..ConvExtra::NONE };
            x = self.conv_of(Conv::new(3, 1), &two, inside, extra)?;
        }
        Ok(x)
    }

    /// (n, h, w, 3) in [0, 1] to features (n, h/4, w/4, c).
    fn features(&mut self, x: TensorId) -> Result<TensorId> {
        let mut x = x;
        for (k, stride) in [(0, 1), (2, 2), (4, 2)] {
            let name = format!("feature_extractor.{k}");
            x = self.conv_of(Conv::new(3, stride), &name, x, ConvExtra::NONE)?;
            x = self.relu(&name, 0.1, x)?;
        }
        self.blocks("feature_extractor", 6, self.operator.blocks[0], x)
    }

    /// Features changed by the kernel k, in a U-Net that meets k at its lowest resolution.
    fn adapted(&mut self, x: TensorId, k: TensorId) -> Result<TensorId> {
        let mut path = vec![x];
        for level in 0..LEVELS {
            let (name, mut x) = (down(level), path[level]);
            if level > 0 {
                x = self.relu(&name, 0.2, x)?;
            }
            path.push(self.conv_of(Conv::new(4, 2), &name, x, ConvExtra::NONE)?);
        }
        // What lies beside the downward path at its level: first k, then what comes up. A level
        // reads the positive part of both.
        let mut above = self.relu("kernel", 0.0, k)?;
        for level in (0..LEVELS).rev() {
            let [one, two] = [0, 1].map(|which| up(level, which));
            let beside = self.relu(&format!("{one}.beside"), 0.0, path[level + 1])?;
            let (x, second) = if level + 1 == LEVELS { (beside, above) } else { (above, beside) };
            let x = self.conv_of(Conv::new(5, 1), &one, x, ConvExtra { second: Some(second), ..ConvExtra::NONE })?;
            let x = self.relu(&one, 0.0, x)?;
            let x = self.conv_of(Conv::new(5, 1), &two, x, ConvExtra::NONE)?;
            let x = self.relu(&two, 0.0, x)?;
            let s = self.g.shape(x);
            let doubled = self.g.along_axes(&format!("operator.{two}.doubled"), x, [s.h, s.w].map(doubled))?;
            above = self.g.one(StorageCopy, &format!("operator.{two}.up"), &[doubled])?;
        }
        self.g.one(HyperbolicTangent, "operator.adapter.tanh", &[above])
    }

    /// Features (n, h/4, w/4, c) to the change of the image, (n, h, w, 3).
    fn change(&mut self, x: TensorId) -> Result<TensorId> {
        let first = self.operator.blocks[1];
        let mut x = self.blocks("recon_trunk", 0, first, x)?;
        let name = |k: usize| format!("recon_trunk.{}", first + k);
        for (k, shuffles) in [(0, true), (3, true), (6, false)] {
            x = self.conv(&name(k), x)?;
            if shuffles {
                x = self.g.one(PixelShuffle, &format!("operator.{}.shuffle", name(k)), &[x])?;
            }
            x = self.relu(&name(k), 0.1, x)?;
        }
        self.conv_of(Conv::LAST, &name(8), x, ConvExtra::NONE)
    }
}

/// Linear interpolation of `n` values at twice as many places, of which the first and the last are
/// the first and the last value (PyTorch's `align_corners=True`).
fn doubled(n: usize) -> Arc<Taps> {
    let row = |i: usize| {
        let at = (i * (n - 1)) as f64 / (2 * n - 1) as f64;
        let (j, share) = (at as usize, at.fract());
        let taps = [(j, 1.0 - share), (j + 1, share)];
        taps.into_iter().filter(|t| t.1 > 0.0).map(|(j, w)| (j, w as f32)).collect()
    };
    Arc::new(Taps { rows: (0..2 * n).map(row).collect(), inputs: n })
}

impl Operator for NonlinearBlur {
    fn task(&self) -> String {
        format!("nonlinear-blur:file={},scale={}", self.file.display(), self.scale)
    }
    fn state_shape(&self, x: Shape) -> Option<Shape> {
        Some(Shape { h: x.h / SIDE, w: x.w / SIDE, c: self.channels, ..x })
    }
    fn draw_state(&self, x: Shape, seed: u64) -> Result<Vec<f32>> {
        let count = self.state_shape(x).map_or(0, |s| s.numel());
        let mut values = vec![0.0; count];
        fill_normal(&NoiseKey { seed, image: 0, step: 0, draw: Draw::Operator }.to_words(), 0, &mut values);
        values.iter_mut().for_each(|v| *v *= self.scale as f32);
        Ok(values)
    }
    fn state_origin(&self) -> StateOrigin<'_> {
        StateOrigin::Drawn { given: None }
    }
    fn files(&self) -> Vec<PathBuf> {
        vec![self.file.clone()]
    }
    fn check(&self, x: Shape) -> Result<()> {
        check_colour(self, x)?;
        match x.h % SIDE + x.w % SIDE {
            0 => Ok(()),
            _ => Err(Error::Invalid(format!(
                "{}: the sides of an image are multiples of {SIDE}, not {}x{}; choose another --size",
                self.task(),
                x.w,
                x.h
            ))),
        }
    }
    fn build(&self, g: &mut Graph, x: TensorId, state: Option<TensorId>) -> Result<TensorId> {
        let kernel = state.ok_or_else(|| Error::Invalid("nonlinear blur needs its kernel".into()))?;
        let shape = g.shape(x);
        let kernel = g.one(StorageCopy, "operator.kernel", &[kernel])?;
        let half = g.constant("one half", shape, vec![0.5; shape.numel()]);
        let scaled = g.one(Scale { scale: 0.5 }, "operator.scaled", &[x])?;
        let scaled = g.one(Add { scale: 1.0 }, "operator.unit", &[scaled, half])?;
        let mut generator = Generator { g, operator: self };
        let features = generator.features(scaled)?;
        let features = generator.adapted(features, kernel)?;
        let change = generator.change(features)?;
        // 2 (x / 2 + 1/2 + change) - 1
        let blurred = g.one(Add { scale: 2.0 }, "operator.blurred", &[x, change])?;
        g.one(Clamp { low: -1.0, high: 1.0 }, "operator.clipped", &[blurred])
    }
    fn is_linear(&self) -> bool {
        false
    }
}
