//! What the self-test runs: every op on small extents, and six real shapes.

use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::noise::KEY_WORDS;
use crate::ops::Op;
use crate::ops::adamw::AdamW;
use crate::ops::add::{Add, Scale};
use crate::ops::attention::{Attention, CrossAttention, QkvOrder};
use crate::ops::axis_filter::{Axis, AxisFilter, Taps};
use crate::ops::concat::{ChannelSlice, Concat};
use crate::ops::conjugate_gradient::{InnerProduct, RatioStep};
use crate::ops::conv::Conv;
use crate::ops::crop::Crop;
use crate::ops::diagonal_gaussian::DiagonalGaussian;
use crate::ops::embedding::Embedding;
use crate::ops::filter2d::Filter2d;
use crate::ops::geglu::Geglu;
use crate::ops::group_norm::{GroupNorm, GroupNormOptions};
use crate::ops::layer_norm::LayerNorm;
use crate::ops::learned_noise::LearnedNoise;
use crate::ops::linear::Linear;
use crate::ops::linear_combination::LinearCombination;
use crate::ops::mask::Mask;
use crate::ops::norm::{ResidualNorm, SquaredNorm};
use crate::ops::normal_noise::NormalNoise;
use crate::ops::pointwise::{Clamp, Gelu, Silu};
use crate::ops::resample::{Pool, Upsample};
use crate::ops::sphere_projection::{GuidedStep, SphereProjection};
use crate::ops::timestep_embedding::TimestepEmbedding;
use crate::tensor::Shape;
use std::sync::Arc;

type Record = Arc<dyn Fn(&mut Graph, &[TensorId]) -> Result<Vec<TensorId>> + Send + Sync>;

/// How an input is stored and drawn.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// In the storage type of the run; normal numbers.
    Stored,
    /// In f32; normal numbers.
    Full,
    /// In f32; magnitudes of normal numbers.
    Positive,
    /// In f32; whole numbers below this.
    Labels(usize),
}

/// One op on one set of extents.
pub(super) struct Case {
    pub op: Record,
    pub name: &'static str,
    pub inputs: Vec<(Shape, Kind)>,
    /// Inputs whose VJP from the first output is checked too.
    pub differentiable: Vec<usize>,
}

fn case<O: Op + Clone + 'static>(
    name: &'static str,
    op: O,
    inputs: Vec<(Shape, Kind)>,
    differentiable: &[usize],
) -> Case {
    let record = move |g: &mut Graph, i: &[TensorId]| g.add(op.clone(), name, i);
    Case { op: Arc::new(record), name, inputs, differentiable: differentiable.to_vec() }
}

/// Every op.
pub(super) fn cases() -> Vec<Case> {
    let s = Shape::new;
    let (x, image) = (s(2, 12, 20, 32), s(2, 16, 24, 3));
    let [stored, full, positive] = [Kind::Stored, Kind::Full, Kind::Positive].map(|kind| move |shape| (shape, kind));
    let conv = |name, from: Shape, to: usize, kernel: usize, stride: usize| {
        let weight = s(to, kernel, kernel, from.c);
        let inputs = vec![stored(from), stored(weight), stored(Shape::vector(to))];
        case(name, Conv::new(kernel, stride), inputs, &[0])
    };
    let doubled = |name, from: Shape, to: usize| {
        let op = Conv { doubled: true, addend: true, ..Conv::new(3, 1) };
        let addend = stored(s(from.n, 2 * from.h, 2 * from.w, to));
        let inputs = vec![stored(from), stored(s(to, 3, 3, from.c)), stored(Shape::vector(to)), addend];
        case(name, op, inputs, &[0])
    };
    let attention = |name, heads, d: usize, order| {
        case(name, Attention { heads, order }, vec![stored(s(2, 9, 11, 3 * heads * d))], &[0])
    };
    // On two multiprocessors 150 tokens of two heads are one turn of blocks of 160 rows.
    let one_turn =
        |name, d: usize, order| case(name, Attention { heads: 2, order }, vec![stored(s(1, 10, 15, 6 * d))], &[0]);
    let cross = |name, heads, c: usize, keys: Shape, causal| {
        let wanted: &[usize] = if keys.n == 1 { &[0] } else { &[0, 1, 2] };
        let inputs = vec![stored(s(2, 9, 11, c)), stored(keys), stored(keys)];
        case(name, CrossAttention { causal, ..CrossAttention::new(heads) }, inputs, wanted)
    };
    let norm = GroupNorm(GroupNormOptions { film: true, ..GroupNormOptions::new(16, 1e-5, true) });
    let (vector, vector48, x16) = (stored(Shape::vector(32)), stored(Shape::vector(48)), s(2, 12, 20, 16));
    let (odd_norm, vector18) = (GroupNorm(GroupNormOptions::new(6, 1e-5, true)), stored(Shape::vector(18)));
    let whole_norm = GroupNorm(GroupNormOptions { film: true, ..GroupNormOptions::new(4, 1e-5, true) });
    let norm_of_two = GroupNorm(GroupNormOptions { second: true, ..GroupNormOptions::new(16, 1e-5, true) });
    let conv_of_two = Conv { second: true, ..Conv::new(1, 1) };
    let taps = Taps { rows: (0..8).map(|i| vec![(2 * i, 0.5), (2 * i + 1, 0.5)]).collect(), inputs: 16 };
    let coefficients = full(Shape::rows(2, 4));
    let row = Shape::rows(2, 1);
    vec![
        conv("conv 3x3", s(2, 17, 19, 64), 136, 3, 1),
        conv("conv 3x3/2", s(2, 17, 19, 32), 64, 3, 2),
        conv("conv 1x1", s(1, 16, 16, 96), 64, 1, 1),
        conv("conv 3x3, whole tiles", s(1, 30, 15, 104), 120, 3, 1),
        conv("conv 1x1, whole tiles", s(1, 20, 24, 104), 120, 1, 1),
        conv("conv of an image", s(2, 16, 16, 3), 32, 3, 1),
        conv("conv to an image", s(2, 16, 16, 32), 3, 3, 1),
        case("group_norm", norm, vec![stored(x), vector, vector, stored(Shape::rows(2, 64))], &[0, 3]),
        case("group_norm, groups of 3", odd_norm, vec![stored(s(2, 12, 20, 18)), vector18, vector18], &[0]),
        case(
            "group_norm, a block a group",
            whole_norm,
            vec![stored(x), vector, vector, stored(Shape::rows(2, 64))],
            &[0, 3],
        ),
        case("group_norm of two sources", norm_of_two, vec![stored(x), vector48, vector48, stored(x16)], &[0, 3]),
        case(
            "conv of two sources",
            conv_of_two,
            vec![stored(x), stored(s(64, 1, 1, 48)), stored(Shape::vector(64)), stored(x16)],
            &[0, 3],
        ),
        attention("attention, heads of 32", 2, 32, QkvOrder::ByHead),
        attention("attention, heads of 40", 1, 40, QkvOrder::ByKind),
        attention("attention, heads of 64", 2, 64, QkvOrder::ByKind),
        attention("attention, heads of 80", 1, 80, QkvOrder::ByHead),
        attention("attention, heads of 160", 1, 160, QkvOrder::ByKind),
        one_turn("attention, heads of 40, blocks of 160 rows", 40, QkvOrder::ByHead),
        one_turn("attention, heads of 64, blocks of 160 rows", 64, QkvOrder::ByKind),
        cross("cross_attention of an image", 2, 128, s(2, 9, 11, 128), false),
        cross("cross_attention to a text", 2, 128, s(1, 1, 77, 128), false),
        cross("cross_attention, a head of 512", 1, 512, s(2, 9, 11, 512), false),
        case(
            "cross_attention, a head of 512 by products",
            CrossAttention::new(1),
            vec![stored(s(2, 12, 12, 512)), stored(s(2, 16, 10, 512)), stored(s(2, 16, 10, 512))],
            &[0, 1, 2],
        ),
        cross("cross_attention, causal", 2, 32, s(2, 1, 99, 32), true),
        case("diagonal_gaussian", DiagonalGaussian, vec![stored(s(2, 16, 24, 6)), full(image)], &[0]),
        case("layer_norm", LayerNorm { eps: 1e-5 }, vec![stored(x), vector, vector], &[0]),
        case("gelu", Gelu { quick: false }, vec![stored(x)], &[0]),
        case("geglu", Geglu, vec![stored(x), stored(s(256, 1, 1, 32)), stored(Shape::vector(256))], &[0]),
        case(
            "linear",
            Linear::default(),
            vec![stored(s(2, 1, 1, 96)), stored(s(64, 1, 1, 96)), stored(Shape::vector(64))],
            &[0],
        ),
        case("silu", Silu, vec![stored(x)], &[0]),
        case("add", Add { scale: -0.5 }, vec![stored(x), stored(x)], &[0, 1]),
        case("scale", Scale { scale: 1.5 }, vec![stored(x)], &[0]),
        case("clamp", Clamp { low: -0.5, high: 0.75 }, vec![full(image)], &[0]),
        case("concat", Concat, vec![stored(x), stored(s(2, 12, 20, 24))], &[0, 1]),
        case("channel_slice", ChannelSlice { start: 8, len: 12 }, vec![stored(x)], &[0]),
        doubled("conv of a doubled image, large tiles", s(1, 30, 15, 104), 256),
        doubled("conv of a doubled image, small tiles", s(1, 15, 8, 104), 192),
        case(
            "conv of a doubled image, item bias",
            Conv { doubled: true, item_bias: true, ..Conv::new(3, 1) },
            vec![stored(x), stored(s(64, 3, 3, 32)), stored(Shape::vector(64)), stored(Shape::rows(2, 64))],
            &[0],
        ),
        case("upsample", Upsample { gain: 1.0 }, vec![stored(x)], &[0]),
        case("pool", Pool { gain: 0.25 }, vec![stored(x)], &[0]),
        case("crop", Crop { h: 9, w: 10 }, vec![full(image)], &[0]),
        case("axis_filter", AxisFilter { axis: Axis::Height, taps: Arc::new(taps) }, vec![full(image)], &[0]),
        case("filter2d", Filter2d, vec![full(image), full(s(2, 9, 9, 1))], &[0]),
        case("mask", Mask, vec![full(image), full(s(2, 16, 24, 1))], &[0]),
        case("residual_norm", ResidualNorm, vec![full(image), full(image)], &[0, 1]),
        case("squared_norm", SquaredNorm, vec![full(image)], &[0]),
        case("inner_product", InnerProduct, vec![full(image), full(image)], &[0, 1]),
        case("ratio_step", RatioStep { sign: -1.0 }, vec![full(image), full(image), full(row), full(row)], &[]),
        case(
            "linear_combination",
            LinearCombination { columns: vec![2, 0] },
            vec![coefficients, full(image), full(image)],
            &[1, 2],
        ),
        case(
            "linear_combination of three",
            LinearCombination { columns: vec![3, 1, 0] },
            vec![coefficients, full(image), full(image), full(image)],
            &[1, 2, 3],
        ),
        case(
            "linear_combination of four",
            LinearCombination { columns: vec![3, 1, 0, 2] },
            vec![coefficients, full(image), full(image), full(image), full(image)],
            &[4],
        ),
        case(
            "learned_noise",
            LearnedNoise { columns: [0, 1, 2] },
            vec![full(image), full(image), full(image), coefficients],
            &[],
        ),
        case(
            "guided_step",
            GuidedStep { step: 0, floor: 1, normalised: true },
            vec![full(image), full(image), full(Shape::rows(2, 1)), coefficients],
            &[],
        ),
        case("sphere_projection", SphereProjection { column: 1 }, vec![full(image), full(image), coefficients], &[]),
        case(
            "adamw",
            AdamW { columns: [0, 1, 2, 3] },
            vec![full(image), full(image), full(image), positive(image), positive(Shape::rows(2, 4))],
            &[],
        ),
        case("normal_noise", NormalNoise { shape: image }, vec![full(Shape::rows(2, KEY_WORDS))], &[]),
        case("embedding", Embedding, vec![(s(2, 1, 7, 1), Kind::Labels(48)), stored(s(48, 1, 1, 40))], &[]),
        case("timestep_embedding", TimestepEmbedding { channels: 64 }, vec![full(Shape::rows(3, 1))], &[]),
    ]
}

/// Real shapes of adm-256 and Stable Diffusion 2 at 512x512, their extents divided by `shrink`.
pub(super) fn large_cases(shrink: usize) -> Vec<Case> {
    let s = Shape::new;
    let stored = |shape: Shape| (shape, Kind::Stored);
    let side = |v: usize| (v / shrink).max(8);
    let channels = |v: usize| (v / shrink).max(64);
    let (c, wide) = (channels(512), channels(320));
    let conv = vec![stored(s(4, side(64), side(64), c)), stored(s(c, 3, 3, c)), stored(Shape::vector(c))];
    let tokens = s(1, side(64), side(64), 3 * wide);
    let (image, norm) = (s(1, side(256), side(256), channels(256)), GroupNormOptions::new(32, 1e-5, true));
    let vector = stored(Shape::vector(channels(256)));
    let text = stored(s(1, 1, 77, wide));
    let heads = wide / 64;
    let pair = s(1, side(64), side(64), wide);
    vec![
        case("conv 3x3", Conv::new(3, 1), conv, &[0]),
        case("attention", Attention { heads, order: QkvOrder::ByKind }, vec![stored(tokens)], &[0]),
        case("cross_attention", CrossAttention::new(heads), vec![stored(pair), text, text], &[0]),
        case("group_norm", GroupNorm(norm), vec![stored(image), vector, vector], &[0]),
        case(
            "geglu",
            Geglu,
            vec![stored(pair), stored(s(8 * wide, 1, 1, wide)), stored(Shape::vector(8 * wide))],
            &[0],
        ),
    ]
}
