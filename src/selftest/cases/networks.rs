//! Cases of the ops in networks.

use crate::ops::attention::QkvOrder::{self, ByHead, ByKind};
use crate::ops::attention::{Attention, CrossAttention};
use crate::ops::conv::{Conv, Padding};
use crate::ops::geglu::Geglu;
use crate::ops::group_norm::{GroupNorm, GroupNormOptions};
use crate::ops::layer_norm::LayerNorm;
use crate::ops::linear::Linear;
use crate::selftest::case::{Case, Input};
use crate::tensor::Shape;

const fn s(n: usize, h: usize, w: usize, c: usize) -> Shape {
    Shape::new(n, h, w, c)
}

/// A convolution to `co` channels. The last `second` channels of `x` are an input of their own.
fn conv_of(op: Conv, x: Shape, second: usize, co: usize) -> Case {
    let Conv { kernel, stride, .. } = op;
    let out = match op.doubled {
        true => s(x.n, 2 * x.h, 2 * x.w, co),
        false => s(x.n, x.h.div_ceil(stride), x.w.div_ceil(stride), co),
    };
    let shapes = [
        Some(Shape { c: x.c - second, ..x }),
        Some(s(co, kernel, kernel, x.c)),
        op.bias.then_some(Shape::vector(co)),
        op.item_bias.then_some(Shape::rows(x.n, co)),
        op.addend.then_some(out),
        op.second.then_some(Shape { c: second, ..x }),
    ];
    let names = [
        (!op.bias, ", no bias"),
        (op.item_bias, ", item bias"),
        (op.addend, ", addend"),
        (op.second, ", of two tensors"),
        (op.doubled, ", doubled"),
        (op.padding == Padding::After, ", zeros after"),
        (op.single, ", f32 out"),
    ];
    let said: String = names.iter().filter(|n| n.0).map(|n| n.1).collect();
    let at = op.places();
    let weight = (!op.doubled && !op.second).then_some(at.weight);
    let wanted = [Some(at.x), weight, at.bias, at.item_bias, at.addend, at.second];
    let wanted: Vec<usize> = wanted.into_iter().flatten().collect();
    let inputs = shapes.into_iter().flatten().map(Input::stored).collect();
    Case::new(format!("conv {kernel}x{kernel}/{stride} {x} -> {co}{said}"), op, inputs, &wanted)
}

fn conv(x: Shape, co: usize, (kernel, stride): (usize, usize), addend: bool) -> Case {
    conv_of(Conv { addend, ..Conv::new(kernel, stride) }, x, 0, co)
}

fn conv_of_two(x: Shape, second: usize, co: usize, (kernel, stride): (usize, usize), addend: bool) -> Case {
    conv_of(Conv { addend, second: true, ..Conv::new(kernel, stride) }, x, second, co)
}

fn group_norm_of(op: GroupNormOptions, x: Shape, second: usize) -> Case {
    let vector = Shape::vector(x.c);
    let shapes = [
        Some(Shape { c: x.c - second, ..x }),
        Some(vector),
        Some(vector),
        op.film.then_some(Shape::rows(x.n, 2 * x.c)),
        op.second.then_some(Shape { c: second, ..x }),
    ];
    let names = [(op.film, ", film"), (op.silu, ", silu"), (op.second, ", of two tensors")];
    let said: String = names.iter().filter(|n| n.0).map(|n| n.1).collect();
    let at = op.places();
    let parameters = if op.second { [None, None] } else { [Some(at.gamma), Some(at.beta)] };
    let wanted = [Some(at.x), at.film, at.second].into_iter().chain(parameters);
    let wanted: Vec<usize> = wanted.flatten().collect();
    let inputs = shapes.into_iter().flatten().map(Input::stored).collect();
    Case::new(format!("group_norm {x} in {}{said}", op.groups), GroupNorm(op), inputs, &wanted)
}

fn group_norm(x: Shape, groups: usize, film: bool, silu: bool) -> Case {
    group_norm_of(GroupNormOptions { film, ..GroupNormOptions::new(groups, 1e-5, silu) }, x, 0)
}

fn group_norm_of_two(x: Shape, second: usize, groups: usize, film: bool) -> Case {
    let options = GroupNormOptions { film, second: true, ..GroupNormOptions::new(groups, 1e-5, true) };
    group_norm_of(options, x, second)
}

fn layer_norm(x: Shape) -> Case {
    let inputs = [x, Shape::vector(x.c), Shape::vector(x.c)].map(Input::stored).to_vec();
    Case::new(format!("layer_norm {x}"), LayerNorm { eps: 1e-5 }, inputs, &[0, 1, 2])
}

fn attention(n: usize, h: usize, w: usize, heads: usize, d: usize, order: QkvOrder) -> Case {
    let x = s(n, h, w, 3 * heads * d);
    let name = format!("attention {x}, {heads} heads, {order:?}");
    Case::new(name, Attention { heads, order }, vec![Input::stored(x)], &[0])
}

/// Cross attention with `items` sets of keys and values.
fn cross_attention(q: Shape, keys: usize, items: usize, heads: usize, causal: bool) -> Case {
    let k = s(items, 1, keys, q.c);
    let name = format!("cross_attention {q} to {k}, {heads} heads{}", if causal { ", causal" } else { "" });
    let wanted: &[usize] = if items == q.n { &[0, 1, 2] } else { &[0] };
    let inputs = [q, k, k].map(Input::stored).to_vec();
    Case::new(name, CrossAttention { causal, ..CrossAttention::new(heads) }, inputs, wanted)
}

/// Cross attention whose keys and values are channels of one tensor, with unused channels before,
/// between and after them.
fn packed_cross_attention(q: Shape, keys: usize, items: usize, heads: usize) -> Case {
    let packed = s(items, 1, keys, 5 * q.c);
    let op = CrossAttention { first_channels: [q.c, 3 * q.c], ..CrossAttention::new(heads) };
    let name = format!("cross_attention {q} inside {packed}, {heads} heads");
    Case { reads: vec![0, 1, 1], ..Case::new(name, op, [q, packed].map(Input::stored).to_vec(), &[0]) }
}

/// A linear layer; with SiLU it has no gradient.
fn linear(x: Shape, out: usize, silu: bool) -> Case {
    let inputs = [x, s(out, 1, 1, x.c), Shape::vector(out)].map(Input::stored).to_vec();
    let name = format!("linear {x} -> {out}{}", if silu { ", silu" } else { "" });
    Case::new(name, Linear { silu }, inputs, if silu { &[] } else { &[0, 1, 2] })
}

fn geglu(x: Shape, out: usize) -> Case {
    let inputs = [x, s(2 * out, 1, 1, x.c), Shape::vector(2 * out)].map(Input::stored).to_vec();
    Case::new(format!("geglu {x} -> {out}"), Geglu, inputs, &[0, 1, 2])
}

pub(super) fn cases() -> Vec<Case> {
    let everywhere = [convolutions(), norms(), attentions(), linear_layers()].concat();
    let kernels = [kernel_convolutions(), kernel_norms(), kernel_attentions(), kernel_linear_layers()].concat();
    everywhere.into_iter().chain(kernels.into_iter().map(Case::only_kernels)).collect()
}

fn convolutions() -> Vec<Case> {
    let doubled = Conv { doubled: true, ..Conv::new(3, 1) };
    let after = Conv { padding: Padding::After, ..Conv::new(3, 2) };
    vec![
        // Every register tile: 1 to 4 vectors of channels, full and partial, with every remainder
        // of pixels.
        conv(s(1, 5, 7, 3), 3, (3, 1), false),
        conv(s(2, 6, 31, 5), 16, (3, 1), true),
        conv(s(1, 4, 27, 32), 32, (3, 1), true),
        conv(s(1, 3, 15, 19), 48, (3, 1), false),
        conv(s(1, 9, 13, 64), 96, (3, 1), true),
        conv(s(1, 2, 9, 33), 130, (3, 1), false),
        // Winograd on the CPU, also in the VJP of stride 2, with more patches than are transformed
        // at a time.
        conv(s(1, 3, 300, 16), 16, (3, 1), false),
        conv(s(1, 8, 31, 16), 20, (3, 1), true),
        conv(s(2, 5, 27, 18), 130, (3, 1), true),
        conv(s(1, 12, 13, 20), 24, (3, 2), false),
        conv(s(2, 1, 1, 8), 70, (3, 1), false),
        conv(s(1, 8, 8, 6), 20, (3, 2), false),
        conv(s(2, 7, 9, 6), 20, (3, 2), false),
        conv(s(2, 3, 5, 24), 40, (1, 1), true),
        conv(s(1, 1, 1, 7), 5, (1, 1), false),
        conv(s(2, 6, 4, 5), 20, (4, 2), false),
        conv(s(1, 2, 18, 16), 24, (4, 2), true),
        conv(s(2, 3, 7, 6), 20, (5, 1), true),
        conv(s(1, 1, 1, 16), 24, (5, 1), false),
        conv_of(after.clone(), s(2, 6, 8, 5), 0, 20),
        conv_of(Conv { bias: false, addend: true, ..Conv::new(1, 1) }, s(2, 3, 5, 24), 0, 40),
        conv_of(after, s(1, 4, 4, 16), 0, 32),
        conv_of(Conv { item_bias: true, addend: true, ..doubled.clone() }, s(2, 3, 5, 6), 0, 20),
        conv_of(Conv { bias: false, ..doubled.clone() }, s(2, 4, 3, 16), 0, 40),
        conv_of(Conv { item_bias: true, ..doubled }, s(2, 9, 7, 32), 0, 64),
        conv_of_two(s(2, 3, 5, 12), 5, 20, (1, 1), false),
        conv_of_two(s(1, 6, 7, 40), 16, 33, (3, 1), true),
        conv_of_two(s(2, 7, 9, 6), 2, 20, (3, 2), false),
    ]
}

fn kernel_convolutions() -> Vec<Case> {
    let doubled = Conv { doubled: true, item_bias: true, addend: true, ..Conv::new(3, 1) };
    vec![
        // Large tiles that are partial in both directions; small tiles with a split sum; both
        // strides.
        conv(s(1, 13, 21, 24), 136, (3, 1), true),
        conv(s(2, 9, 7, 40), 72, (3, 2), false),
        conv(s(1, 12, 10, 40), 72, (4, 2), false),
        conv(s(1, 9, 7, 40), 72, (5, 1), true),
        conv(s(1, 8, 8, 96), 32, (1, 1), true),
        conv(s(1, 24, 16, 16), 128, (1, 1), false),
        // wgmma kernels: partial tiles of 256 and 128 pixels, two slices, with and without a split
        // sum.
        conv(s(1, 30, 15, 104), 120, (3, 1), true),
        conv(s(1, 14, 23, 104), 120, (3, 1), false),
        conv(s(1, 14, 8, 104), 120, (3, 1), true),
        conv(s(2, 12, 20, 104), 120, (1, 1), true),
        conv(s(1, 10, 12, 104), 120, (1, 1), false),
        conv_of_two(s(1, 14, 16, 240), 120, 104, (3, 1), true),
        conv_of(doubled.clone(), s(1, 15, 8, 104), 0, 192),
        conv_of(doubled.clone(), s(1, 30, 15, 104), 0, 256),
        // Everything that is added to a split sum afterwards.
        conv_of(doubled, s(2, 4, 3, 64), 0, 64),
        // Few channels, as in an image: as output (also in f32), and their gradient, with both
        // strides.
        conv(s(1, 9, 13, 72), 3, (3, 1), true),
        conv_of(Conv { single: true, ..Conv::new(3, 1) }, s(2, 5, 7, 40), 0, 6),
        conv_of_two(s(1, 5, 7, 64), 24, 3, (1, 1), false),
        conv(s(2, 9, 7, 3), 72, (3, 1), false),
        conv(s(1, 8, 6, 5), 32, (3, 2), false),
        // Two images that join inside a slice; split sums whose parts end in either image.
        conv_of_two(s(1, 13, 21, 136), 56, 136, (1, 1), true),
        conv_of_two(s(1, 5, 7, 304), 120, 64, (3, 1), false),
    ]
}

fn norms() -> Vec<Case> {
    vec![
        group_norm(s(2, 3, 5, 12), 4, false, false),
        group_norm(s(1, 17, 31, 32), 16, true, true),
        group_norm(s(2, 4, 4, 8), 8, true, false),
        group_norm(s(3, 1, 2, 6), 1, false, true),
        group_norm_of_two(s(2, 3, 5, 12), 5, 4, false),
        group_norm_of_two(s(2, 17, 31, 24), 8, 3, true),
        group_norm(s(2, 3, 5, 12), 4, false, false).past(),
        layer_norm(s(2, 3, 5, 7)),
        layer_norm(s(2, 3, 3, 132)),
        layer_norm(s(2, 3, 5, 12)).past(),
    ]
}

fn kernel_norms() -> Vec<Case> {
    vec![
        group_norm(s(2, 9, 7, 64), 16, true, true),
        group_norm(s(1, 5, 3, 320), 32, false, true),
        // One block per group: more pixels than it reads at once, channels of two and more vectors.
        group_norm(s(2, 23, 29, 32), 4, true, true),
        group_norm(s(1, 5, 3, 320), 4, false, false),
        group_norm_of_two(s(2, 9, 7, 64), 24, 4, true),
        group_norm(s(2, 9, 7, 64), 8, false, false).past(),
        // Two tensors that join inside a group.
        group_norm_of_two(s(2, 9, 7, 64), 24, 16, true),
        group_norm(s(2, 9, 7, 64), 16, false, false).past(),
        layer_norm(s(2, 3, 7, 264)).past(),
    ]
}

fn attentions() -> Vec<Case> {
    vec![
        attention(2, 3, 3, 2, 5, ByHead),
        attention(1, 3, 3, 2, 5, ByKind),
        // More tokens than one block of queries and one block of keys.
        attention(1, 15, 18, 1, 8, ByKind),
        cross_attention(s(2, 3, 3, 10), 7, 2, 2, false),
        cross_attention(s(2, 3, 3, 10), 7, 1, 2, false),
        cross_attention(s(2, 1, 9, 12), 9, 2, 3, true),
        packed_cross_attention(s(2, 3, 3, 10), 7, 2, 2),
        packed_cross_attention(s(1, 3, 5, 24), 40, 1, 3),
        // One head whose keys are split into parts, with more than one block of keys.
        cross_attention(s(1, 3, 50, 6), 1100, 1, 1, false),
    ]
}

fn kernel_attentions() -> Vec<Case> {
    vec![
        // Every padded head size, with more tokens than a tile and a partial last tile.
        attention(1, 9, 11, 2, 32, ByHead),
        attention(1, 9, 9, 1, 40, ByKind),
        attention(2, 5, 15, 2, 64, ByHead),
        attention(1, 7, 10, 1, 80, ByKind),
        attention(1, 7, 10, 1, 160, ByHead),
        // A block of 128 tokens and a partial block; fewer blocks than the device can run at once.
        attention(1, 9, 17, 1, 48, ByHead),
        attention(1, 9, 17, 1, 64, ByKind),
        attention(1, 5, 15, 1, 64, ByHead),
        // Blocks of 160 rows: with 128 rows, two multiprocessors would need two rounds.
        attention(1, 10, 15, 2, 64, ByKind),
        attention(1, 10, 15, 2, 40, ByHead),
        // More queries than keys and fewer, keys of one item for all items, and the single head of
        // an autoencoder.
        cross_attention(s(2, 9, 9, 64), 77, 1, 2, false),
        packed_cross_attention(s(2, 3, 5, 64), 77, 1, 2),
        cross_attention(s(2, 3, 9, 40), 90, 2, 1, false),
        cross_attention(s(1, 3, 5, 512), 15, 1, 1, false),
        cross_attention(s(1, 7, 10, 512), 75, 1, 1, false),
        cross_attention(s(2, 1, 99, 64), 99, 2, 2, true),
        // Attention by wgmma products.
        cross_attention(s(2, 12, 12, 512), 136, 2, 1, false),
        cross_attention(s(2, 5, 7, 2 * 200), 40, 2, 2, false),
    ]
}

fn linear_layers() -> Vec<Case> {
    vec![
        linear(s(3, 1, 1, 9), 17, false),
        linear(s(3, 1, 1, 9), 17, true),
        geglu(s(2, 3, 5, 9), 7),
        geglu(s(1, 3, 2, 24), 12),
    ]
}

fn kernel_linear_layers() -> Vec<Case> {
    vec![
        linear(s(2, 1, 1, 96), 64, false),
        // A whole sum without and with SiLU, a split sum, plain arithmetic, wgmma products.
        linear(s(20, 1, 1, 48), 64, false),
        linear(s(20, 1, 1, 48), 64, true),
        linear(s(20, 1, 1, 520), 64, true),
        linear(s(20, 1, 1, 9), 17, true),
        linear(s(120, 1, 1, 520), 120, true),
        // Values and gates in one tile, large or small, partial in both directions; a number of
        // them that is no multiple of eight; a split sum.
        geglu(s(1, 13, 21, 24), 72),
        geglu(s(1, 6, 7, 40), 40),
        geglu(s(1, 6, 7, 40), 12),
        geglu(s(1, 5, 4, 520), 16),
        geglu(s(1, 20, 24, 40), 128),
    ]
}
