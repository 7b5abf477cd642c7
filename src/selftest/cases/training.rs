//! Cases of the ops that only training records: gradients of parameters with addends, and an
//! optimiser's step. networks.rs has the gradients without addends.

use crate::ops::adamw::BETAS;
use crate::ops::adamw_step::AdamWStep;
use crate::ops::conv::{ConvWeightVjp, Padding};
use crate::ops::group_norm::{GroupNormOptions, GroupNormWeightVjp};
use crate::ops::layer_norm::LayerNormWeightVjp;
use crate::ops::norm::SquaredSum;
use crate::ops::pixel_sum::PixelSum;
use crate::ops::storage_copy::StorageCopy;
use crate::selftest::case::{Case, CaseOp, Input, Values};
use crate::tensor::Shape;

const fn s(n: usize, h: usize, w: usize, c: usize) -> Shape {
    Shape::new(n, h, w, c)
}

/// An op with these stored inputs, and f32 ones that its results are added to.
fn with_sums(name: String, op: impl Into<CaseOp>, stored: &[Shape], sums: &[Shape]) -> Case {
    let stored = stored.iter().map(|&s| Input::stored(s));
    let inputs = stored.chain(sums.iter().map(|&s| Input::single(s))).collect();
    let said = if sums.is_empty() { "" } else { ", addend" };
    Case::new(format!("{name}{said}"), op, inputs, &[])
}

/// The weight gradient of a convolution of x to `co` channels.
fn conv_weight(x: Shape, co: usize, (kernel, stride): (usize, usize), adds: bool) -> Case {
    conv_weight_of(ConvWeightVjp { kernel, stride, padding: Padding::Around }, x, co, adds)
}

fn conv_weight_of(op: ConvWeightVjp, x: Shape, co: usize, adds: bool) -> Case {
    let ConvWeightVjp { kernel, stride, padding } = op;
    let dy = s(x.n, x.h.div_ceil(stride), x.w.div_ceil(stride), co);
    let said = if padding == Padding::After { ", zeros after" } else { "" };
    let name = format!("conv_weight_vjp {kernel}x{kernel}/{stride} {x} -> {co}{said}");
    let dw = s(co, kernel, kernel, x.c);
    with_sums(name, op, &[dy, x], &[dw][..usize::from(adds)])
}

fn pixel_sum(x: Shape, over_items: bool, adds: bool) -> Case {
    let y = if over_items { Shape::vector(x.c) } else { Shape::rows(x.n, x.c) };
    let said = if over_items { ", over items" } else { "" };
    with_sums(format!("pixel_sum {x}{said}"), PixelSum { over_items }, &[x], &[y][..usize::from(adds)])
}

fn layer_norm(x: Shape) -> Case {
    let op = LayerNormWeightVjp { eps: 1e-5 };
    with_sums(format!("layer_norm_weight_vjp {x}"), op, &[x, x], &[Shape::vector(x.c); 2])
}

/// With a mean and a deviation of any values, not those of x: the op takes them as they are.
fn group_norm(x: Shape, groups: usize, film: bool, silu: bool, addends: bool) -> Case {
    let options = GroupNormOptions { film, ..GroupNormOptions::new(groups, 1e-5, silu) };
    let (statistics, vector) = (Input::single(Shape::rows(x.n, groups)), Shape::vector(x.c));
    let mut inputs = vec![Input::stored(x), Input::stored(x), statistics.clone(), statistics.with(Values::Positive)];
    inputs.extend([vector; 2].map(Input::stored));
    inputs.extend(film.then(|| Input::stored(Shape::rows(x.n, 2 * x.c))));
    inputs.extend(vec![Input::single(vector); if addends { 2 } else { 0 }]);
    let said: String =
        [(film, ", film"), (silu, ", silu"), (addends, ", addends")].iter().filter(|n| n.0).map(|n| n.1).collect();
    let op = GroupNormWeightVjp { options, addends };
    Case::new(format!("group_norm_weight_vjp {x} in {groups}{said}"), op, inputs, &[])
}

fn squared_sum(x: Shape, adds: bool) -> Case {
    let sum = Input::single(Shape::rows(1, 1)).with(Values::Positive);
    let inputs = [Input::single(x)].into_iter().chain(adds.then_some(sum)).collect();
    Case::new(format!("squared_sum {x}{}", if adds { ", addend" } else { "" }), SquaredSum, inputs, &[])
}

/// A step with the norm 3 of all gradients: `limit` says how far it is clipped.
fn adamw_step(what: &str, x: Shape, step: f32, squares: f32, limit: f32) -> Case {
    let (values, one) = (Input::single(x), Input::single(Shape::rows(1, 1)));
    let coefficients = Input::single(Shape::rows(1, 6)).with(Values::Given(vec![step, 0.1, 0.01, 1.5, 2.0, limit]));
    let moments = [values.clone(), values.clone().with(Values::Positive)];
    let inputs =
        [vec![values.clone()], moments.to_vec(), vec![values, one.with(Values::Given(vec![squares])), coefficients]];
    Case::new(format!("adamw_step {x}, {what}"), AdamWStep { betas: BETAS }, inputs.concat(), &[])
}

pub(super) fn cases() -> Vec<Case> {
    let after = ConvWeightVjp { kernel: 3, stride: 2, padding: Padding::After };
    let everywhere = vec![
        conv_weight(s(2, 5, 7, 6), 20, (3, 1), true),
        conv_weight(s(2, 7, 9, 5), 20, (3, 2), true),
        conv_weight(s(1, 6, 8, 16), 24, (3, 2), true),
        conv_weight_of(after.clone(), s(2, 6, 8, 5), 12, true),
        conv_weight(s(2, 3, 5, 24), 40, (1, 1), true),
        // The time embeddings of a batch.
        conv_weight(s(4, 1, 1, 24), 40, (1, 1), true),
        conv_weight(s(3, 1, 1, 9), 17, (1, 1), true),
        pixel_sum(s(2, 5, 7, 12), true, true),
        pixel_sum(s(2, 3, 5, 7), false, true),
        layer_norm(s(2, 3, 5, 12)),
        layer_norm(s(2, 5, 7, 37)),
        group_norm(s(2, 3, 5, 12), 4, true, true, true),
        group_norm(s(2, 3, 5, 7), 1, false, true, true),
        group_norm(s(3, 5, 7, 12), 3, true, false, false),
        squared_sum(s(2, 3, 5, 7), false),
        squared_sum(s(2, 16, 24, 3), true),
        Case::new("storage_copy", StorageCopy, vec![Input::single(s(7, 3, 3, 5))], &[0]),
    ];
    let steps = [s(1, 1, 1, 7), s(12, 3, 3, 8)].into_iter().flat_map(|x| {
        [
            adamw_step("no step", x, 0.0, 9.0, 1.0),
            adamw_step("clipped", x, 1.0, 9.0, 1.0),
            adamw_step("not clipped", x, 1.0, 9.0, 4.0),
            adamw_step("squares not finite", x, 1.0, f32::INFINITY, 1.0),
        ]
    });
    let kernels = vec![
        // Several parts of the sum, with every variant; tiles that are partial in both directions.
        conv_weight(s(2, 13, 20, 64), 72, (1, 1), true),
        conv_weight(s(1, 24, 24, 8), 8, (3, 1), true),
        conv_weight(s(2, 33, 31, 8), 16, (3, 2), false),
        conv_weight_of(after, s(1, 34, 38, 8), 16, true),
        conv_weight(s(2, 9, 7, 72), 136, (3, 1), true),
        conv_weight(s(1, 6, 11, 136), 264, (3, 1), false),
        conv_weight(s(2, 1, 1, 136), 264, (1, 1), true),
        // Several chunks of pixels, blocks of channels, and rows of threads that add up parts.
        pixel_sum(s(2, 40, 33, 40), true, true),
        pixel_sum(s(2, 40, 33, 40), false, true),
        pixel_sum(s(1, 70, 40, 7), true, false),
        pixel_sum(s(3, 9, 13, 136), false, false),
        pixel_sum(s(1, 9, 13, 35), true, true),
        layer_norm(s(2, 19, 23, 264)),
        layer_norm(s(1, 40, 33, 9)),
        group_norm(s(2, 19, 23, 264), 33, true, true, true),
        group_norm(s(40, 3, 5, 9), 3, true, true, false),
        group_norm(s(300, 1, 2, 7), 1, false, false, true),
        squared_sum(s(4, 3, 1, 1 << 15), true),
        Case::new("storage_copy of vectors", StorageCopy, vec![Input::single(s(72, 3, 3, 24))], &[0]),
    ];
    everywhere.into_iter().chain(steps).chain(kernels.into_iter().map(Case::only_kernels)).collect()
}
