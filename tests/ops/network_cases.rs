//! Cases of the ops that networks are made of, by their extents.

use crate::cases::Case;
use crate::real::{self, Real, gelu, zero};
use crate::reference as r;
use dmap::graph::Shape;
use dmap::ops::add::Add;
use dmap::ops::attention::{Attention, CrossAttention, QkvOrder};
use dmap::ops::conv::{Conv, ConvInputs, Padding};
use dmap::ops::geglu::Geglu;
use dmap::ops::group_norm::{GroupNorm, GroupNormInputs, GroupNormOptions};
use dmap::ops::layer_norm::LayerNorm;
use dmap::ops::linear::Linear;

const fn s(n: usize, h: usize, w: usize, c: usize) -> Shape {
    Shape::new(n, h, w, c)
}

fn slices<T>(inputs: &[Vec<T>]) -> Vec<&[T]> {
    inputs.iter().map(|v| &v[..]).collect()
}

pub fn conv_case(x: Shape, co: usize, (kernel, stride): (usize, usize), addend: bool) -> Case {
    let Shape { n, h, w, c: ci } = x;
    let out = s(n, h.div_ceil(stride), w.div_ceil(stride), co);
    let mut shapes = vec![x, s(co, kernel, kernel, ci), Shape::vector(co)];
    let mut differentiable = vec![0];
    if addend {
        shapes.push(out);
        differentiable.push(3);
    }
    let op = Conv { addend, ..Conv::new(kernel, stride) };
    let name = format!("conv {kernel}x{kernel}/{stride} {x} -> {co}{}", if addend { " + addend" } else { "" });
    let label = name.clone();
    Case {
        name,
        shapes,
        differentiable,
        record: Box::new(move |g, i| g.one(op.clone(), &label, i)),
        truth: Box::new(move |i| r::conv(&i[0], x, &i[1], kernel, stride, &i[2], i.get(3).map(|v| &v[..]))),
        plain: Box::new(move |i| r::conv(&i[0], x, &i[1], kernel, stride, &i[2], i.get(3).map(|v| &v[..]))),
    }
}

/// Without a bias, with zeros only after the image, of a doubled image.
pub fn conv_variant_case(x: Shape, co: usize, op: Conv) -> Case {
    let (kernel, stride) = (op.kernel, op.stride);
    let doubled = if op.doubled { s(x.n, 2 * x.h, 2 * x.w, x.c) } else { x };
    let out = s(x.n, doubled.h.div_ceil(stride), doubled.w.div_ceil(stride), co);
    let mut shapes = vec![x, s(co, kernel, kernel, x.c)];
    shapes.extend(op.bias.then_some(Shape::vector(co)));
    shapes.extend(op.item_bias.then_some(Shape::rows(x.n, co)));
    shapes.extend(op.addend.then_some(out));
    let name = format!("conv {kernel}x{kernel}/{stride} {x} -> {co}, {op:?}");
    let label = name.clone();
    fn reference<T: Real>(i: &[Vec<T>], x: Shape, co: usize, op: &Conv) -> Vec<T> {
        let ConvInputs { x: image, weight, bias, item_bias, addend, .. } = op.inputs(&slices(i));
        let bias = bias.map_or(vec![zero(); co], <[T]>::to_vec);
        match op.padding {
            Padding::Around if op.doubled => {
                let (large, shape) = (r::resample(image, x, true, 1.0), s(x.n, 2 * x.h, 2 * x.w, x.c));
                let mut y = r::conv(&large, shape, weight, op.kernel, op.stride, &bias, addend);
                if let Some(added) = item_bias {
                    let item = y.len() / x.n;
                    y.iter_mut().enumerate().for_each(|(k, y)| *y += added[k / item * co + k % co]);
                }
                y
            }
            Padding::Around => r::conv(image, x, weight, op.kernel, op.stride, &bias, addend),
            Padding::After => {
                // The odd pixels of a convolution of every pixel.
                let all = r::conv(image, x, weight, 3, 1, &bias, None);
                (0..x.n * x.h / 2 * x.w / 2 * co)
                    .map(|k| {
                        let (c, j, row) = (k % co, k / co % (x.w / 2), k / co / (x.w / 2));
                        all[((2 * row + 1) * x.w + 2 * j + 1) * co + c]
                    })
                    .collect()
            }
        }
    }
    let mut differentiable = vec![0];
    differentiable.extend(op.places().addend);
    let [of_truth, of_plain] = [op.clone(), op.clone()];
    Case {
        name,
        shapes,
        differentiable,
        record: Box::new(move |g, i| g.one(op.clone(), &label, i)),
        truth: Box::new(move |i| reference(i, x, co, &of_truth)),
        plain: Box::new(move |i| reference(i, x, co, &of_plain)),
    }
}

/// `items` is the number of sets of keys.
pub fn cross_attention_case(q: Shape, keys: usize, items: usize, heads: usize, causal: bool) -> Case {
    let k = s(items, 1, keys, q.c);
    let op = CrossAttention { causal, ..CrossAttention::new(heads) };
    let name = format!("cross_attention {q} to {k}, {heads} heads, causal {causal}");
    let label = name.clone();
    Case {
        name,
        shapes: vec![q, k, k],
        differentiable: if items == q.n { vec![0, 1, 2] } else { vec![0] },
        record: Box::new(move |g, i| g.one(op.clone(), &label, i)),
        truth: Box::new(move |i| r::cross_attention([&i[0], &i[1], &i[2]], q, k, heads, causal)),
        plain: Box::new(move |i| r::cross_attention([&i[0], &i[1], &i[2]], q, k, heads, causal)),
    }
}

/// Keys and values are channels of one tensor that has others before, between and behind them.
pub fn packed_cross_attention_case(q: Shape, keys: usize, items: usize, heads: usize) -> Case {
    let (k, packed) = (s(items, 1, keys, q.c), s(items, 1, keys, 5 * q.c));
    let op = CrossAttention { first_channels: [q.c, 3 * q.c], ..CrossAttention::new(heads) };
    let name = format!("cross_attention {q} to {k} inside {packed}, {heads} heads");
    let label = name.clone();
    fn reference<T: Real>(i: &[Vec<T>], (q, k): (Shape, Shape), heads: usize) -> Vec<T> {
        let channels = |first: usize| -> Vec<T> {
            i[1].chunks(5 * q.c).flat_map(|token| token[first..first + q.c].to_vec()).collect()
        };
        r::cross_attention([&i[0], &channels(q.c), &channels(3 * q.c)], q, k, heads, false)
    }
    Case {
        name,
        shapes: vec![q, packed],
        differentiable: vec![0],
        record: Box::new(move |g, i| g.one(op.clone(), &label, &[i[0], i[1], i[1]])),
        truth: Box::new(move |i| reference(i, (q, k), heads)),
        plain: Box::new(move |i| reference(i, (q, k), heads)),
    }
}

pub fn group_norm_case(x: Shape, groups: usize, film: bool, with_silu: bool) -> Case {
    let mut shapes = vec![x, Shape::vector(x.c), Shape::vector(x.c)];
    let mut differentiable = vec![0];
    if film {
        shapes.push(Shape::rows(x.n, 2 * x.c));
        differentiable.push(3);
    }
    let op = GroupNorm(GroupNormOptions { film, ..GroupNormOptions::new(groups, 1e-5, with_silu) });
    let name = format!("group_norm {x} in {groups}, film {film}, silu {with_silu}");
    let label = name.clone();
    Case {
        name,
        shapes,
        differentiable,
        record: Box::new(move |g, i| g.one(op.clone(), &label, i)),
        truth: Box::new(move |i| r::group_norm(&i[0], x, groups, &i[1], &i[2], i.get(3).map(|v| &v[..]), with_silu)),
        plain: Box::new(move |i| r::group_norm(&i[0], x, groups, &i[1], &i[2], i.get(3).map(|v| &v[..]), with_silu)),
    }
}

/// Of two tensors; `x` is the extent of both together.
pub fn group_norm_of_two_case(x: Shape, second: usize, groups: usize, film: bool) -> Case {
    let first = Shape { c: x.c - second, ..x };
    let mut shapes = vec![first, Shape::vector(x.c), Shape::vector(x.c)];
    shapes.extend(film.then_some(Shape::rows(x.n, 2 * x.c)));
    shapes.push(Shape { c: second, ..x });
    let options = GroupNormOptions { film, second: true, ..GroupNormOptions::new(groups, 1e-5, true) };
    let (op, at) = (GroupNorm(options), options.places());
    let name = format!("group_norm {first} and {second} channels in {groups}, film {film}");
    let label = name.clone();
    fn reference<T: Real>(i: &[Vec<T>], x: Shape, c: usize, options: GroupNormOptions) -> Vec<T> {
        let all = slices(i);
        let GroupNormInputs { x: first, gamma, beta, film, second } = options.inputs(all[0], &all[1..]);
        let both = r::concat(first, x.c - c, second.expect("two tensors"), c);
        r::group_norm(&both, x, options.groups, gamma, beta, film, true)
    }
    Case {
        name,
        differentiable: [Some(at.x), at.film, at.second].into_iter().flatten().collect(),
        shapes,
        record: Box::new(move |g, i| g.one(op.clone(), &label, i)),
        truth: Box::new(move |i| reference(i, x, second, options)),
        plain: Box::new(move |i| reference(i, x, second, options)),
    }
}

/// A convolution of two images; `x` is the extent of both together.
pub fn conv_of_two_case(x: Shape, second: usize, co: usize, (kernel, stride): (usize, usize), addend: bool) -> Case {
    let (first, other) = (Shape { c: x.c - second, ..x }, Shape { c: second, ..x });
    let out = s(x.n, x.h.div_ceil(stride), x.w.div_ceil(stride), co);
    let mut shapes = vec![first, s(co, kernel, kernel, x.c), Shape::vector(co)];
    shapes.extend(addend.then_some(out));
    shapes.push(other);
    let op = Conv { addend, second: true, ..Conv::new(kernel, stride) };
    let name = format!("conv {kernel}x{kernel}/{stride} {first} and {second} channels -> {co}");
    let label = name.clone();
    fn reference<T: Real>(i: &[Vec<T>], x: Shape, c: usize, op: &Conv) -> Vec<T> {
        let ConvInputs { x: first, weight, bias, addend, second, .. } = op.inputs(&slices(i));
        let both = r::concat(first, x.c - c, second.expect("two images"), c);
        r::conv(&both, x, weight, op.kernel, op.stride, bias.expect("a bias"), addend)
    }
    let ([of_truth, of_plain], at) = ([op.clone(), op.clone()], op.places());
    Case {
        name,
        differentiable: [Some(at.x), at.addend, at.second].into_iter().flatten().collect(),
        shapes,
        record: Box::new(move |g, i| g.one(op.clone(), &label, i)),
        truth: Box::new(move |i| reference(i, x, second, &of_truth)),
        plain: Box::new(move |i| reference(i, x, second, &of_plain)),
    }
}

/// norm(x) - 0.75 x: the VJP of the norm adds to the gradient that goes past it.
pub fn bypassed_norm_case(x: Shape, groups: Option<usize>) -> Case {
    let name = format!("{}_norm {x} and a way past it", if groups.is_some() { "group" } else { "layer" });
    let label = name.clone();
    fn reference<T: Real>(i: &[Vec<T>], x: Shape, groups: Option<usize>) -> Vec<T> {
        let pixels = s(x.n * x.h * x.w, 1, 1, x.c);
        let (x, groups) = groups.map_or((pixels, 1), |groups| (x, groups));
        let y = r::group_norm(&i[0], x, groups, &i[1], &i[2], None, false);
        y.iter().zip(&i[0]).map(|(&y, &x)| y - T::of(0.75) * x).collect()
    }
    Case {
        name,
        shapes: vec![x, Shape::vector(x.c), Shape::vector(x.c)],
        differentiable: vec![0],
        record: Box::new(move |g, i| {
            let y = match groups {
                Some(groups) => g.one(GroupNorm(GroupNormOptions::new(groups, 1e-5, false)), &label, i)?,
                None => g.one(LayerNorm { eps: 1e-5 }, &label, i)?,
            };
            g.one(Add { scale: -0.75 }, &label, &[y, i[0]])
        }),
        truth: Box::new(move |i| reference(i, x, groups)),
        plain: Box::new(move |i| reference(i, x, groups)),
    }
}

pub fn attention_case(n: usize, h: usize, w: usize, heads: usize, d: usize, order: QkvOrder) -> Case {
    let x = s(n, h, w, 3 * heads * d);
    let by_head = order == QkvOrder::ByHead;
    let op = Attention { heads, order };
    let name = format!("attention {x}, {heads} heads, {order:?}");
    let label = name.clone();
    Case {
        name,
        shapes: vec![x],
        differentiable: vec![0],
        record: Box::new(move |g, i| g.one(op.clone(), &label, i)),
        truth: Box::new(move |i| r::attention(&i[0], x, heads, by_head)),
        plain: Box::new(move |i| r::attention(&i[0], x, heads, by_head)),
    }
}

/// The linear layer, or SiLU of it, which has no gradient.
pub fn linear_case(x: Shape, out: usize, silu: bool) -> Case {
    fn reference<T: Real>(i: &[Vec<T>], x: Shape, with_silu: bool) -> Vec<T> {
        let y = r::conv(&i[0], x, &i[1], 1, 1, &i[2], None);
        if with_silu { y.into_iter().map(real::silu).collect() } else { y }
    }
    Case {
        name: format!("linear {x} -> {out}{}", if silu { ", SiLU" } else { "" }),
        shapes: vec![x, s(out, 1, 1, x.c), Shape::vector(out)],
        differentiable: if silu { vec![] } else { vec![0] },
        record: Box::new(move |g, i| g.one(Linear { silu }, "linear", i)),
        truth: Box::new(move |i| reference(i, x, silu)),
        plain: Box::new(move |i| reference(i, x, silu)),
    }
}

/// The gated linear layer with `out` channels.
pub fn geglu_case(x: Shape, out: usize) -> Case {
    fn reference<T: Real>(i: &[Vec<T>], x: Shape, out: usize) -> Vec<T> {
        let halves = r::conv(&i[0], x, &i[1], 1, 1, &i[2], None);
        halves
            .chunks(2 * out)
            .flat_map(|p| (0..out).map(|c| p[c] * gelu(p[out + c], false)).collect::<Vec<_>>())
            .collect()
    }
    Case {
        name: format!("geglu {x} -> {out}"),
        shapes: vec![x, s(2 * out, 1, 1, x.c), Shape::vector(2 * out)],
        differentiable: vec![0],
        record: Box::new(move |g, i| g.one(Geglu, "geglu", i)),
        truth: Box::new(move |i| reference(i, x, out)),
        plain: Box::new(move |i| reference(i, x, out)),
    }
}
