//! The case table: every op with the shapes that its code treats differently.

use crate::network_cases::{
    attention_case, bypassed_norm_case, conv_case, conv_of_two_case, conv_variant_case, cross_attention_case,
    geglu_case, group_norm_case, group_norm_of_two_case, linear_case, packed_cross_attention_case,
};
use crate::real::{Real, gelu, silu, zero};
use crate::reference as r;
use dmap::graph::{Graph, Shape, TensorId};
use dmap::ops::adamw::AdamW;
use dmap::ops::add::{Add, Scale};
use dmap::ops::attention::QkvOrder;
use dmap::ops::axis_filter::{Axis, AxisFilter, Taps};
use dmap::ops::concat::{ChannelPad, ChannelSlice, Concat};
use dmap::ops::conjugate_gradient::{InnerProduct, RatioStep};
use dmap::ops::conv::{Conv, Padding};
use dmap::ops::crop::{Crop, ZeroPad};
use dmap::ops::diagonal_gaussian::DiagonalGaussian;
use dmap::ops::embedding::Embedding;
use dmap::ops::filter2d::Filter2d;
use dmap::ops::layer_norm::LayerNorm;
use dmap::ops::learned_noise::LearnedNoise;
use dmap::ops::linear_combination::LinearCombination;
use dmap::ops::mask::Mask;
use dmap::ops::norm::{ResidualNorm, SquaredNorm};
use dmap::ops::pointwise::{Clamp, Gelu, Silu};
use dmap::ops::resample::{Pool, Upsample};
use dmap::ops::sphere_projection::{GuidedStep, SphereProjection};
use dmap::ops::timestep_embedding::TimestepEmbedding;
use std::sync::Arc;

type Record = Box<dyn Fn(&mut Graph, &[TensorId]) -> dmap::Result<TensorId>>;
type Reference<T> = Box<dyn Fn(&[Vec<T>]) -> Vec<T>>;

/// One op on one set of extents.
pub struct Case {
    pub name: String,
    pub shapes: Vec<Shape>,
    /// Inputs that the op has a gradient for.
    pub differentiable: Vec<usize>,
    pub record: Record,
    pub truth: Reference<f64>,
    pub plain: Reference<f32>,
}

macro_rules! case {
    ($name:expr, $shapes:expr, $differentiable:expr, $op:expr, |$i:ident: $t:ident| $body:expr) => {{
        fn reference<$t: Real>($i: &[Vec<$t>]) -> Vec<$t> {
            $body
        }
        let name = $name.to_string();
        let label = name.clone();
        Case {
            name,
            shapes: $shapes,
            differentiable: $differentiable,
            record: Box::new(move |g, i| g.one($op, &label, i)),
            truth: Box::new(reference::<f64>),
            plain: Box::new(reference::<f32>),
        }
    }};
}

const fn s(n: usize, h: usize, w: usize, c: usize) -> Shape {
    Shape::new(n, h, w, c)
}

pub fn linear_combination_case(columns: Vec<usize>) -> Case {
    fn reference<T: Real>(i: &[Vec<T>], columns: &[usize], item: usize) -> Vec<T> {
        let term = |k: usize, j: usize| i[0][k / item * 4 + columns[j]] * i[j + 1][k];
        (0..i[1].len()).map(|k| (0..columns.len()).fold(zero(), |sum: T, j| sum + term(k, j))).collect()
    }
    let x = s(2, 3, 5, 8);
    let count = columns.len();
    let [of_truth, of_plain] = [columns.clone(), columns.clone()];
    Case {
        name: format!("linear_combination of {count}"),
        shapes: std::iter::once(Shape::rows(2, 4)).chain(vec![x; count]).collect(),
        differentiable: (1..=count).collect(),
        record: Box::new(move |g, i| g.one(LinearCombination { columns: columns.clone() }, "linear_combination", i)),
        truth: Box::new(move |i| reference(i, &of_truth, x.item())),
        plain: Box::new(move |i| reference(i, &of_plain, x.item())),
    }
}

/// Residuals of 300 and 1.5 over floors of 0 and 1: the stated length, 2, is the limit of the first item only.
fn guided_step_case(normalised: bool) -> Case {
    fn reference<T: Real>(i: &[Vec<T>], normalised: bool) -> Vec<T> {
        let item = i[0].len() / 2;
        let zeros = vec![zero::<T>(); i[1].len()];
        let norms = r::distance(&i[1], &zeros, 2);
        let polyak = T::of(0.5) / norms[1] / norms[1];
        let step = |n: usize| match normalised {
            true => [T::of(2.0) / norms[0], polyak][n],
            false => T::of(2.0),
        };
        (0..i[0].len()).map(|k| i[0][k] - step(k / item) * i[1][k]).collect()
    }
    let x = s(2, 3, 5, 7);
    Case {
        name: format!("guided_step, normalised {normalised}"),
        shapes: vec![x, x, Shape::rows(2, 1), Shape::rows(2, 3)],
        differentiable: vec![],
        record: Box::new(move |g, i| g.one(GuidedStep { step: 2, floor: 1, normalised }, "guided_step", i)),
        truth: Box::new(move |i| reference(i, normalised)),
        plain: Box::new(move |i| reference(i, normalised)),
    }
}

fn diagonal_gaussian_case(name: &str) -> Case {
    let (moments, noise) = (s(2, 3, 5, 14), s(2, 3, 5, 7));
    case!(name, vec![moments, noise], vec![0], DiagonalGaussian, |i: T| {
        let at = |k: usize, half: usize| i[0][k / 7 * 14 + 7 * half + k % 7];
        let logvar = |k: usize| if at(k, 1) > T::of(20.0) { T::of(20.0) } else { at(k, 1) };
        (0..i[1].len()).map(|k| at(k, 0) + (T::of(0.5) * logvar(k)).exp() * i[1][k]).collect()
    })
}

/// The sum of all three outputs, so that each is seen.
fn adamw_case() -> Case {
    fn reference<T: Real>(i: &[Vec<T>]) -> Vec<T> {
        let item = i[0].len() / 2;
        let at = |k: usize| {
            let c = &i[4][k / item * 5..];
            let m = T::of(0.9) * i[2][k] + T::of(0.1) * i[1][k];
            let v = T::of(0.999) * i[3][k] + T::of(0.001) * i[1][k] * i[1][k];
            let z = (T::of(1.0) - c[0]) * i[0][k] - c[1] * (m * c[4]) / ((v * c[2]).sqrt() + T::of(1e-8));
            z + m + v
        };
        (0..i[0].len()).map(at).collect()
    }
    let x = s(2, 3, 5, 7);
    let sum = Add { scale: 1.0 };
    Case {
        name: "adamw".into(),
        shapes: vec![x, x, x, x, Shape::rows(2, 5)],
        differentiable: vec![],
        record: Box::new(move |g, i| {
            let o = g.add(AdamW { columns: [1, 0, 4, 2] }, "adamw", i)?;
            let two = g.one(sum.clone(), "sum", &[o[0], o[1]])?;
            g.one(sum.clone(), "sum", &[two, o[2]])
        }),
        truth: Box::new(reference),
        plain: Box::new(reference),
    }
}

/// A map with a repeated input, an unread one and an empty row.
fn taps() -> Taps {
    Taps {
        rows: vec![vec![(0, 0.5), (1, -1.25)], vec![(3, 2.0)], vec![], vec![(1, 0.25), (4, 1.0), (0, 1.5)]],
        inputs: 6,
    }
}

fn axis_filter<T: Real>(x: &[T], s: Shape, axis: Axis, taps: Taps) -> Vec<T> {
    let (h, w) = if axis == Axis::Height { (taps.rows.len(), s.w) } else { (s.h, taps.rows.len()) };
    let mut out = vec![zero(); s.n * h * w * s.c];
    for (at, o) in out.iter_mut().enumerate() {
        let (c, j, i, n) = (at % s.c, at / s.c % w, at / s.c / w % h, at / s.c / w / h);
        for &(k, weight) in &taps.rows[if axis == Axis::Height { i } else { j }] {
            let (y, z) = if axis == Axis::Height { (k, j) } else { (i, k) };
            *o += T::of(weight.into()) * x[((n * s.h + y) * s.w + z) * s.c + c];
        }
    }
    out
}

pub fn cases() -> Vec<Case> {
    let conv = |kernel, stride, bias, addend| Conv { bias, addend, ..Conv::new(kernel, stride) };
    const X: Shape = s(2, 3, 5, 7);
    const R: Shape = s(2, 6, 6, 3);
    // More rows than a block of the dense filter.
    const TALL: Shape = s(2, 37, 5, 3);
    const W: Shape = s(2, 3, 3, 132);
    const F: Shape = s(2, 6, 5, 3);
    let mut all = vec![
        // Every register tile: 1 to 4 vectors of channels, whole and cut, with every remainder of pixels.
        conv_case(s(1, 5, 7, 3), 3, (3, 1), false),
        conv_case(s(2, 6, 31, 5), 16, (3, 1), true),
        conv_case(s(1, 4, 27, 32), 32, (3, 1), true),
        conv_case(s(1, 3, 15, 19), 48, (3, 1), false),
        conv_case(s(1, 9, 13, 64), 96, (3, 1), true),
        conv_case(s(1, 2, 9, 33), 130, (3, 1), false),
        // 2x2 pixels at a time on the CPU, also in the reverse of stride 2, and more of them than are transformed at a time.
        conv_case(s(1, 3, 300, 16), 16, (3, 1), false),
        conv_case(s(1, 8, 31, 16), 20, (3, 1), true),
        conv_case(s(2, 5, 27, 18), 130, (3, 1), true),
        conv_case(s(1, 12, 13, 20), 24, (3, 2), false),
        conv_case(s(2, 1, 1, 8), 70, (3, 1), false),
        conv_case(s(1, 8, 8, 6), 20, (3, 2), false),
        conv_case(s(2, 7, 9, 6), 20, (3, 2), false),
        conv_case(s(2, 3, 5, 24), 40, (1, 1), true),
        conv_case(s(1, 1, 1, 7), 5, (1, 1), false),
        conv_variant_case(s(2, 6, 8, 5), 20, Conv { padding: Padding::After, ..conv(3, 2, true, false) }),
        conv_variant_case(s(2, 3, 5, 24), 40, conv(1, 1, false, true)),
        conv_variant_case(s(1, 4, 4, 16), 32, Conv { padding: Padding::After, ..conv(3, 2, true, false) }),
        conv_variant_case(s(2, 3, 5, 6), 20, Conv { doubled: true, item_bias: true, ..conv(3, 1, true, true) }),
        conv_variant_case(s(2, 4, 3, 16), 40, Conv { doubled: true, ..conv(3, 1, false, false) }),
        conv_variant_case(s(2, 9, 7, 32), 64, Conv { doubled: true, item_bias: true, ..conv(3, 1, true, false) }),
        group_norm_case(s(2, 3, 5, 12), 4, false, false),
        group_norm_case(s(1, 17, 31, 32), 16, true, true),
        group_norm_case(s(2, 4, 4, 8), 8, true, false),
        group_norm_case(s(3, 1, 2, 6), 1, false, true),
        group_norm_of_two_case(s(2, 3, 5, 12), 5, 4, false),
        group_norm_of_two_case(s(2, 17, 31, 24), 8, 3, true),
        bypassed_norm_case(s(2, 3, 5, 12), Some(4)),
        bypassed_norm_case(s(2, 3, 5, 12), None),
        conv_of_two_case(s(2, 3, 5, 12), 5, 20, (1, 1), false),
        conv_of_two_case(s(1, 6, 7, 40), 16, 33, (3, 1), true),
        conv_of_two_case(s(2, 7, 9, 6), 2, 20, (3, 2), false),
        attention_case(2, 3, 3, 2, 5, QkvOrder::ByHead),
        attention_case(1, 3, 3, 2, 5, QkvOrder::ByKind),
        // More tokens than one block of queries and one block of keys.
        attention_case(1, 15, 18, 1, 8, QkvOrder::ByKind),
        cross_attention_case(s(2, 3, 3, 10), 7, 2, 2, false),
        cross_attention_case(s(2, 3, 3, 10), 7, 1, 2, false),
        cross_attention_case(s(2, 1, 9, 12), 9, 2, 3, true),
        packed_cross_attention_case(s(2, 3, 3, 10), 7, 2, 2),
        packed_cross_attention_case(s(2, 3, 5, 64), 77, 1, 2),
        packed_cross_attention_case(s(1, 3, 5, 24), 40, 1, 3),
        // Blocks of 160 rows: of 128 there would be two turns of two multiprocessors.
        attention_case(1, 10, 15, 2, 64, QkvOrder::ByKind),
        attention_case(1, 10, 15, 2, 40, QkvOrder::ByHead),
        // Keys in several parts for one head, more than one block of them.
        cross_attention_case(s(1, 3, 50, 6), 1100, 1, 1, false),
        diagonal_gaussian_case("diagonal_gaussian"),
        diagonal_gaussian_case("diagonal_gaussian at its limit"),
        linear_case(s(3, 1, 1, 9), 17, false),
        linear_case(s(3, 1, 1, 9), 17, true),
        geglu_case(s(2, 3, 5, 9), 7),
        geglu_case(s(1, 3, 2, 24), 12),
        case!("layer_norm", vec![X, Shape::vector(7), Shape::vector(7)], vec![0], LayerNorm { eps: 1e-5 }, |i: T| {
            // Group norm with one group of one pixel.
            r::group_norm(&i[0], s(2 * 3 * 5, 1, 1, 7), 1, &i[1], &i[2], None, false)
        }),
        case!(
            "layer_norm",
            vec![W, Shape::vector(132), Shape::vector(132)],
            vec![0],
            LayerNorm { eps: 1e-5 },
            |i: T| r::group_norm(&i[0], s(2 * 3 * 3, 1, 1, 132), 1, &i[1], &i[2], None, false)
        ),
        case!("gelu", vec![X], vec![0], Gelu { quick: false }, |i: T| i[0].iter().map(|&x| gelu(x, false)).collect()),
        case!("gelu quick", vec![X], vec![0], Gelu { quick: true }, |i: T| i[0]
            .iter()
            .map(|&x| gelu(x, true))
            .collect()),
        case!("silu", vec![X], vec![0], Silu, |i: T| i[0].iter().map(|&x| silu(x)).collect()),
        case!("add", vec![X, X], vec![0, 1], Add { scale: -0.75 }, |i: T| (i[0].iter().zip(&i[1]))
            .map(|(&a, &b)| a - T::of(0.75) * b)
            .collect()),
        case!("scale", vec![X], vec![0], Scale { scale: 1.5 }, |i: T| i[0].iter().map(|&x| T::of(1.5) * x).collect()),
        case!("clamp", vec![X], vec![0], Clamp { low: -0.5, high: 0.75 }, |i: T| i[0]
            .iter()
            .map(|&x| if x < T::of(-0.5) {
                T::of(-0.5)
            } else if x > T::of(0.75) {
                T::of(0.75)
            } else {
                x
            })
            .collect()),
        case!("concat", vec![X, s(2, 3, 5, 4)], vec![0, 1], Concat, |i: T| r::concat(&i[0], 7, &i[1], 4)),
        case!("channel_slice", vec![X], vec![0], ChannelSlice { start: 2, len: 3 }, |i: T| (i[0].chunks(7))
            .flat_map(|p| p[2..5].to_vec())
            .collect()),
        case!("channel_pad", vec![X], vec![0], ChannelPad { start: 2, total: 12 }, |i: T| (i[0].chunks(7))
            .flat_map(|p| {
                let mut out = vec![zero(); 12];
                out[2..9].copy_from_slice(p);
                out
            })
            .collect()),
        case!("upsample", vec![X], vec![0], Upsample { gain: 1.5 }, |i: T| r::resample(&i[0], X, true, 1.5)),
        case!("pool", vec![s(2, 4, 6, 3)], vec![0], Pool { gain: 0.25 }, |i: T| r::resample(
            &i[0],
            s(2, 4, 6, 3),
            false,
            0.25
        )),
        case!("crop", vec![X], vec![0], Crop { h: 2, w: 3 }, |i: T| (0..2 * 2 * 3 * 7)
            .map(|k| i[0][((k / 42 * 3 + k / 21 % 2) * 5 + k / 7 % 3) * 7 + k % 7])
            .collect()),
        case!("zero_pad", vec![X], vec![0], ZeroPad { h: 4, w: 6 }, |i: T| (0..2 * 4 * 6 * 7)
            .map(|k| {
                let (c, x, y, n) = (k % 7, k / 7 % 6, k / 42 % 4, k / 168);
                if x < 5 && y < 3 { i[0][((n * 3 + y) * 5 + x) * 7 + c] } else { zero() }
            })
            .collect()),
        case!(
            "axis_filter rows",
            vec![R],
            vec![0],
            AxisFilter { axis: Axis::Height, taps: Arc::new(taps()) },
            |i: T| axis_filter(&i[0], R, Axis::Height, taps())
        ),
        case!(
            "axis_filter columns",
            vec![R],
            vec![0],
            AxisFilter { axis: Axis::Width, taps: Arc::new(taps()) },
            |i: T| axis_filter(&i[0], R, Axis::Width, taps())
        ),
        case!(
            "axis_filter dense rows",
            vec![TALL],
            vec![0],
            AxisFilter { axis: Axis::Height, taps: Arc::new(Taps::cosine_transform(37)) },
            |i: T| axis_filter(&i[0], TALL, Axis::Height, Taps::cosine_transform(37))
        ),
        case!(
            "axis_filter dense columns",
            vec![TALL],
            vec![0],
            AxisFilter { axis: Axis::Width, taps: Arc::new(Taps::cosine_transform(5)) },
            |i: T| axis_filter(&i[0], TALL, Axis::Width, Taps::cosine_transform(5))
        ),
        case!("filter2d", vec![F, s(2, 7, 7, 1)], vec![0], Filter2d, |i: T| r::filter2d(&i[0], F, &i[1], 7)),
        case!("mask", vec![X, s(2, 3, 5, 1)], vec![0], Mask, |i: T| (0..X.numel())
            .map(|k| i[0][k] * i[1][k / 7])
            .collect()),
        case!("residual_norm", vec![X, X], vec![0, 1], ResidualNorm, |i: T| r::distance(&i[0], &i[1], 2)),
        case!("squared_norm", vec![X], vec![0], SquaredNorm, |i: T| r::distance(&i[0], &vec![zero(); X.numel()], 2)
            .into_iter()
            .map(|d| d * d)
            .collect()),
        case!("inner_product", vec![X, X], vec![0, 1], InnerProduct, |i: T| r::inner_product(&i[0], &i[1], 2)),
        case!(
            "ratio_step",
            vec![X, X, Shape::rows(2, 1), Shape::rows(2, 1)],
            vec![],
            RatioStep { sign: -1.0 },
            |i: T| (0..X.numel()).map(|k| i[0][k] - i[2][k / X.item()] / i[3][k / X.item()] * i[1][k]).collect()
        ),
        linear_combination_case(vec![2, 0, 3]),
        case!("sphere_projection", vec![X, X, Shape::rows(2, 3)], vec![], SphereProjection { column: 1 }, |i: T| {
            let offset: Vec<T> = i[0].iter().zip(&i[1]).map(|(&z, &m)| z - m).collect();
            r::moved(&i[1], &offset, |n| i[2][3 * n + 1], 2)
        }),
        adamw_case(),
        guided_step_case(true),
        guided_step_case(false),
        case!(
            "learned_noise",
            vec![X, X, X, Shape::rows(2, 3)],
            vec![],
            LearnedNoise { columns: [0, 1, 2] },
            |i: T| (0..X.numel())
                .map(|k| {
                    let (c, f) = (&i[3][k / X.item() * 3..], (i[1][k] + T::of(1.0)) * T::of(0.5));
                    i[0][k] + c[2] * (T::of(0.5) * (f * c[0] + (T::of(1.0) - f) * c[1])).exp() * i[2][k]
                })
                .collect()
        ),
    ];
    // Timesteps and labels are not what a random tensor holds: the inputs are turned into them.
    all.push(case!(
        "timestep_embedding",
        vec![Shape::rows(3, 1)],
        vec![],
        TimestepEmbedding { channels: 6 },
        |i: T| {
            (i[0].iter())
                .flat_map(|t| {
                    let angle = |k: usize| t.value() * (-(10000f64.ln()) * k as f64 / 3.0).exp();
                    (0..6).map(|k| T::of(if k < 3 { angle(k).cos() } else { angle(k - 3).sin() })).collect::<Vec<_>>()
                })
                .collect()
        }
    ));
    all.push(case!("embedding", vec![Shape::rows(3, 1), s(1, 1, 1, 4)], vec![], Embedding, |i: T| {
        // A table of one row: labels of 0 to 1 read it, negative ones give NaN, which the driver avoids.
        (0..3).flat_map(|_| i[1].clone()).collect()
    }));
    all
}
