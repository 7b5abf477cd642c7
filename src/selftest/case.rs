//! One case of the case table: an op, its inputs, and the values of the inputs.

use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::noise::{Draw, NoiseKey, fill_normal};
use crate::ops::adamw::AdamW;
use crate::ops::adamw_step::AdamWStep;
use crate::ops::add::{Add, Scale};
use crate::ops::attention::{Attention, CrossAttention};
use crate::ops::axis_filter::AxisFilter;
use crate::ops::channel_mix::ChannelMix;
use crate::ops::concat::{ChannelPad, ChannelSlice, Concat};
use crate::ops::conjugate_gradient::{InnerProduct, RatioStep};
use crate::ops::conv::{Conv, ConvWeightVjp};
use crate::ops::crop::{Crop, ZeroPad};
use crate::ops::diagonal_gaussian::DiagonalGaussian;
use crate::ops::embedding::Embedding;
use crate::ops::filter2d::Filter2d;
use crate::ops::fourier::Fourier;
use crate::ops::geglu::Geglu;
use crate::ops::group_norm::{GroupNorm, GroupNormWeightVjp};
use crate::ops::layer_norm::{LayerNorm, LayerNormWeightVjp};
use crate::ops::learned_noise::LearnedNoise;
use crate::ops::linear::Linear;
use crate::ops::linear_combination::LinearCombination;
use crate::ops::mask::Mask;
use crate::ops::modulus::Modulus;
use crate::ops::norm::{ResidualNorm, SquaredNorm, SquaredSum};
use crate::ops::normal_noise::NormalNoise;
use crate::ops::pixel_shuffle::{PixelShuffle, PixelUnshuffle};
use crate::ops::pixel_sum::PixelSum;
use crate::ops::pointwise::{Clamp, Gelu, HyperbolicTangent, LeakyRelu, Silu};
use crate::ops::quantise::{Quantise, QuantiseVjp};
use crate::ops::resample::{Pool, Upsample};
use crate::ops::sparse_product::SparseProduct;
use crate::ops::spectral_step::SpectralStep;
use crate::ops::sphere_projection::{GuidedStep, SphereProjection};
use crate::ops::storage_copy::StorageCopy;
use crate::ops::thin_edges::ThinEdges;
use crate::ops::timestep_embedding::TimestepEmbedding;
use crate::tensor::Shape;

/// The values of an input.
#[derive(Clone, Debug)]
pub enum Values {
    /// Standard normal numbers.
    Normal,
    /// Absolute values of standard normal numbers.
    Positive,
    /// Whole numbers from 0 up to, but not including, this number.
    Labels(usize),
    /// These values.
    Given(Vec<f32>),
    /// Standard normal numbers, with some elements replaced: (element, value).
    Except(Vec<(usize, f32)>),
}

/// An input of a case.
#[derive(Clone, Debug)]
pub struct Input {
    /// Shape.
    pub shape: Shape,
    /// The input has the storage type of the run, like activations and weights; otherwise it is
    /// f32.
    pub stored: bool,
    /// The values.
    pub values: Values,
}

/// One op with inputs of given shapes.
#[derive(Clone, Debug)]
pub struct Case {
    /// Name, unique in the table.
    pub name: String,
    /// The op.
    pub op: CaseOp,
    /// The input tensors.
    pub inputs: Vec<Input>,
    /// Indices into `inputs`, in the order in which the op reads them.
    pub reads: Vec<usize>,
    /// Inputs with respect to which the first output has a gradient.
    pub differentiable: Vec<usize>,
    /// The output of the case is y - 0.75 x, so that the VJP adds to an existing gradient.
    pub past: bool,
    /// The case only exercises a kernel variant. Central differences skip it, because they would
    /// take long.
    pub only_kernels: bool,
}

macro_rules! case_ops {
    ($($op:ident),* $(,)?) => {
        /// An op of the case table, with its parameters.
        #[derive(Clone, Debug)]
        pub enum CaseOp {
            $(#[doc = concat!("See [`", stringify!($op), "`].")] $op($op),)*
        }

        impl CaseOp {
            fn record(&self, g: &mut Graph, name: &str, inputs: &[TensorId]) -> Result<Vec<TensorId>> {
                match self {
                    $(CaseOp::$op(op) => g.add(op.clone(), name, inputs),)*
                }
            }
        }

        $(impl From<$op> for CaseOp {
            fn from(op: $op) -> CaseOp {
                CaseOp::$op(op)
            }
        })*
    };
}

case_ops!(
    AdamW,
    AdamWStep,
    Add,
    Attention,
    AxisFilter,
    ChannelMix,
    ChannelPad,
    ChannelSlice,
    Clamp,
    Concat,
    Conv,
    ConvWeightVjp,
    Crop,
    CrossAttention,
    DiagonalGaussian,
    Embedding,
    Filter2d,
    Fourier,
    Geglu,
    Gelu,
    GroupNorm,
    GroupNormWeightVjp,
    GuidedStep,
    InnerProduct,
    LayerNorm,
    LayerNormWeightVjp,
    LeakyRelu,
    LearnedNoise,
    Linear,
    LinearCombination,
    Mask,
    Modulus,
    NormalNoise,
    PixelShuffle,
    PixelSum,
    PixelUnshuffle,
    Pool,
    Quantise,
    QuantiseVjp,
    RatioStep,
    ResidualNorm,
    Scale,
    Silu,
    SparseProduct,
    SpectralStep,
    SphereProjection,
    SquaredNorm,
    SquaredSum,
    StorageCopy,
    HyperbolicTangent,
    ThinEdges,
    TimestepEmbedding,
    Upsample,
    ZeroPad,
);

impl Input {
    /// Standard normal numbers in the storage type of the run.
    pub(super) fn stored(shape: Shape) -> Input {
        Input { shape, stored: true, values: Values::Normal }
    }

    /// Standard normal numbers in f32.
    pub(super) fn single(shape: Shape) -> Input {
        Input { shape, stored: false, values: Values::Normal }
    }

    pub(super) fn with(self, values: Values) -> Input {
        Input { values, ..self }
    }
}

impl Case {
    pub(super) fn new(
        name: impl Into<String>,
        op: impl Into<CaseOp>,
        inputs: Vec<Input>,
        differentiable: &[usize],
    ) -> Case {
        Case {
            name: name.into(),
            op: op.into(),
            reads: (0..inputs.len()).collect(),
            inputs,
            differentiable: differentiable.to_vec(),
            past: false,
            only_kernels: false,
        }
    }

    pub(super) fn past(self) -> Case {
        Case { name: format!("{} and a way past it", self.name), past: true, ..self }
    }

    pub(super) fn only_kernels(self) -> Case {
        Case { only_kernels: true, ..self }
    }

    /// Records the op and returns its outputs.
    pub fn record(&self, g: &mut Graph, inputs: &[TensorId]) -> Result<Vec<TensorId>> {
        let read: Vec<TensorId> = self.reads.iter().map(|&k| inputs[k]).collect();
        let mut outputs = self.op.record(g, &self.name, &read)?;
        if self.past {
            outputs[0] = g.one(Add { scale: -0.75 }, "past", &[outputs[0], read[0]])?;
        }
        Ok(outputs)
    }

    /// The values of input `k`; they are the same in every run.
    pub fn values(&self, k: usize) -> Vec<f32> {
        let Input { shape, values: kind, .. } = &self.inputs[k];
        let mut values = self.normal(k as u32, shape.numel());
        match kind {
            Values::Normal => {}
            Values::Positive => values.iter_mut().for_each(|v| *v = v.abs()),
            Values::Labels(below) => values.iter_mut().enumerate().for_each(|(i, v)| *v = (i * 7 % below) as f32),
            Values::Given(given) => values.copy_from_slice(given),
            Values::Except(replaced) => replaced.iter().for_each(|&(i, v)| values[i] = v),
        }
        values
    }

    /// `count` standard normal numbers, which differ between cases and between values of `number`.
    pub fn normal(&self, number: u32, count: usize) -> Vec<f32> {
        let seed = self.name.bytes().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
        let mut values = vec![0.0; count];
        fill_normal(&NoiseKey { seed, image: number, step: 0, draw: Draw::Start }.to_words(), 0, &mut values);
        values
    }
}
