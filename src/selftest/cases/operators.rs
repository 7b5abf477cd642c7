//! Cases of elementwise ops, ops that move values, and parts of operators.

use crate::ops::add::{Add, Scale};
use crate::ops::axis_filter::{Axis, AxisFilter, Taps};
use crate::ops::channel_mix::ChannelMix;
use crate::ops::concat::{ChannelPad, ChannelSlice, Concat};
use crate::ops::crop::{Crop, ZeroPad};
use crate::ops::diagonal_gaussian::DiagonalGaussian;
use crate::ops::embedding::Embedding;
use crate::ops::filter2d::{Boundary, Filter2d};
use crate::ops::fourier::{Fourier, Parts};
use crate::ops::mask::Mask;
use crate::ops::modulus::Modulus;
use crate::ops::pixel_shuffle::{PixelShuffle, PixelUnshuffle};
use crate::ops::pointwise::{Clamp, Gelu, HyperbolicTangent, LeakyRelu, Silu};
use crate::ops::quantise::{Quantise, QuantiseVjp};
use crate::ops::resample::{Pool, Upsample};
use crate::ops::sparse_product::SparseProduct;
use crate::ops::thin_edges::ThinEdges;
use crate::ops::timestep_embedding::TimestepEmbedding;
use crate::selftest::case::{Case, CaseOp, Input, Values};
use crate::tensor::Shape;
use std::sync::Arc;

/// A shape with a remainder in every dimension; [`EVEN`] consists of whole vectors.
const ODD: Shape = Shape::new(2, 3, 5, 7);
const EVEN: Shape = Shape::new(2, 12, 20, 32);

/// A case with one activation as input.
fn of_one(name: &str, op: impl Into<CaseOp>, x: Shape) -> Case {
    Case::new(format!("{name} {x}"), op, vec![Input::stored(x)], &[0])
}

/// A case with one f32 image as input.
fn of_image(name: &str, op: impl Into<CaseOp>, x: Shape) -> Case {
    Case::new(format!("{name} {x}"), op, vec![Input::single(x)], &[0])
}

/// Taps with a repeated input, an input that no row reads, and an empty row.
fn uneven_taps() -> Taps {
    Taps {
        rows: vec![vec![(0, 0.5), (1, -1.25)], vec![(3, 2.0)], vec![], vec![(1, 0.25), (4, 1.0), (0, 1.5)]],
        inputs: 6,
    }
}

fn filter(name: &str, axis: Axis, taps: Taps, x: Shape) -> Case {
    let side = if axis == Axis::Height { "rows" } else { "columns" };
    of_image(&format!("axis_filter {name}{side}"), AxisFilter { axis, taps: Arc::new(taps) }, x)
}

/// A transform of `from` values along one axis to `to` values; the other axis has five pixels.
fn fourier(axis: Axis, (from, to): (usize, usize), parts: [Parts; 2], inverse: bool) -> Case {
    let c = if parts[0] == Parts::Real { 3 } else { 6 };
    let x = if axis == Axis::Height { Shape::new(2, from, 5, c) } else { Shape::new(2, 5, from, c) };
    let name = format!("fourier {axis:?} of {from}, {to} out, {:?} to {:?}", parts[0], parts[1]);
    of_image(&name, Fourier { axis, extent: to, inverse, from: parts[0], to: parts[1] }, x)
}

/// Cases of the ops that operators consist of.
fn of_operators() -> Vec<Case> {
    use Parts::{Complex, Real};
    let s = Shape::new;
    let two = |name: &str, op: CaseOp, x: Shape| {
        Case::new(format!("{name} {x}"), op, vec![Input::single(x), Input::single(x)], &[0, 1])
    };
    let rows = |count: usize, c: usize| -> Vec<Vec<f32>> {
        (0..count).map(|i| (0..c).map(|j| 0.5 - 0.25 * (3 * i + j) as f32).collect()).collect()
    };
    let matrix = Arc::new(Taps {
        rows: vec![vec![(3, 1.5)], vec![], vec![(0, -1.0), (104, 0.5), (7, 2.0)], vec![(104, 0.25)]],
        inputs: ODD.item(),
    });
    let mut all = vec![
        // Prime factors 2, 3, 5 and 7 and a prime extent; padding, cropping, odd differences.
        fourier(Axis::Width, (24, 24), [Complex, Complex], false),
        fourier(Axis::Height, (24, 36), [Real, Complex], false),
        fourier(Axis::Width, (35, 20), [Complex, Real], true),
        fourier(Axis::Height, (1, 1), [Complex, Complex], true),
        fourier(Axis::Width, (13, 8), [Complex, Complex], false),
        fourier(Axis::Height, (7, 16), [Real, Real], true),
        of_image("modulus", Modulus, s(2, 3, 5, 6)),
        two("thin_edges", ThinEdges.into(), s(2, 7, 9, 1)),
        two("thin_edges", ThinEdges.into(), s(2, 16, 24, 1)),
        of_image("sparse_product", SparseProduct { matrix, item: s(1, 1, 2, 2) }, ODD),
    ];
    // Steps from far below to far above the values. The gradient passes the op, which is not its
    // derivative.
    for (x, first, by) in [(s(2, 10, 19, 1), 0.01, 0.05), (s(2, 16, 24, 3), 0.1, 0.01)] {
        let steps: Vec<f32> = (0..64 * x.c).map(|k| first + by * k as f32).collect();
        let (op, cubic) = (Quantise { steps: steps.clone(), cubic: true }, QuantiseVjp { steps });
        all.push(Case::new(format!("quantise {x}"), op, vec![Input::single(x)], &[]));
        all.push(Case::new(format!("quantise_vjp {x}"), cubic, vec![Input::single(x), Input::single(x)], &[]));
    }
    for (x, count) in [(ODD, 2), (s(2, 16, 24, 3), 1), (s(2, 16, 24, 1), 3)] {
        all.push(of_image(&format!("channel_mix to {count}"), ChannelMix { rows: rows(count, x.c) }, x));
    }
    all
}

pub(super) fn cases() -> Vec<Case> {
    let s = Shape::new;
    let clamp = Clamp { low: -0.5, high: 0.75 };
    // More rows than one block of the dense filter.
    let tall = s(2, 37, 5, 3);
    let halves = Taps { rows: (0..8).map(|i| vec![(2 * i, 0.5), (2 * i + 1, 0.5)]).collect(), inputs: 16 };
    let pair = |name: &str, op: CaseOp, a: Shape, b: Shape| {
        Case::new(format!("{name} {a}"), op, vec![Input::stored(a), Input::stored(b)], &[0, 1])
    };
    // Log variances above the upper limit, one in each batch item.
    let moments = Input::stored(s(2, 3, 5, 14));
    let at_limit = moments.clone().with(Values::Except(vec![(9, 25.0), (15 * 14 + 12, 30.0)]));
    let label_table = vec![Input::single(s(2, 1, 7, 1)).with(Values::Labels(48)), Input::stored(s(48, 1, 1, 40))];
    let mut all = vec![
        of_one("gelu quick", Gelu { quick: true }, ODD),
        of_image("clamp of an image", clamp.clone(), s(2, 16, 24, 3)),
        of_one("pool", Pool { gain: 0.25 }, s(2, 4, 6, 3)),
        of_one("pixel_shuffle", PixelShuffle, s(2, 3, 5, 12)),
        of_one("pixel_shuffle", PixelShuffle, s(1, 8, 6, 64)),
        of_one("pixel_unshuffle", PixelUnshuffle, s(2, 6, 4, 3)),
        of_image("crop", Crop { h: 2, w: 3 }, ODD),
        of_image("crop", Crop { h: 9, w: 10 }, s(2, 16, 24, 3)),
        of_image("zero_pad", ZeroPad { h: 4, w: 6 }, ODD),
        filter("", Axis::Height, uneven_taps(), s(2, 6, 6, 3)),
        filter("", Axis::Width, uneven_taps(), s(2, 6, 6, 3)),
        filter("", Axis::Height, halves, s(2, 16, 24, 3)),
        filter("dense ", Axis::Height, Taps::cosine_transform(37), tall),
        filter("dense ", Axis::Width, Taps::cosine_transform(5), tall),
        Case::new("diagonal_gaussian", DiagonalGaussian, vec![moments, Input::single(ODD)], &[0]),
        Case::new("diagonal_gaussian at its limit", DiagonalGaussian, vec![at_limit, Input::single(ODD)], &[0]),
        Case::new("embedding", Embedding, label_table, &[]),
    ];
    for x in [ODD, EVEN] {
        all.extend([
            of_one("gelu", Gelu { quick: false }, x),
            of_one("silu", Silu, x),
            of_one("leaky_relu", LeakyRelu { slope: 0.1 }, x),
            of_one("hyperbolic_tangent", HyperbolicTangent, x),
            of_one("scale", Scale { scale: 1.5 }, x),
            of_one("clamp", clamp.clone(), x),
            of_one("upsample", Upsample { gain: 1.5 }, x),
            pair("add", Add { scale: -0.75 }.into(), x, x),
        ]);
    }
    for (x, second, start, len) in [(ODD, 4, 2, 3), (EVEN, 24, 8, 12)] {
        all.extend([
            pair("concat", Concat.into(), x, Shape { c: second, ..x }),
            of_one("channel_slice", ChannelSlice { start, len }, x),
            of_one("channel_pad", ChannelPad { start, total: x.c + start + 3 }, x),
        ]);
    }
    for (x, k) in [(s(2, 6, 5, 3), 7), (s(2, 16, 24, 3), 9)] {
        let inputs = |other: Shape| vec![Input::single(x), Input::single(other)];
        for boundary in [Boundary::Reflect, Boundary::Circular] {
            let name = format!("filter2d {k}x{k} {boundary} {x}");
            all.push(Case::new(name, Filter2d { boundary }, inputs(s(2, k, k, 1)), &[0]));
        }
        all.push(Case::new(format!("mask {x}"), Mask, inputs(Shape { c: 1, ..x }), &[0]));
        all.push(Case::new(format!("mask of every value {x}"), Mask, inputs(x), &[0]));
    }
    for channels in [6, 64] {
        let t = vec![Input::single(Shape::rows(3, 1))];
        all.push(Case::new(format!("timestep_embedding {channels}"), TimestepEmbedding { channels }, t, &[]));
    }
    all.extend(of_operators());
    all
}
