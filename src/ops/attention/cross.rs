//! Attention with q, k and v in separate tensors: within an image, or from an image to a text.
//!
//! Formulas and VJP are in `self_attention.rs`. One set of keys and values may serve all items.
//! With `causal`, a query sees only the keys up to its own position. dk and dv are optional: a
//! fixed text does not need them. Keys and values may be channels of one wider tensor, because one
//! product makes the keys and values of a fixed text for all layers of a network.

use super::super::prelude::*;
use super::cpu::{Heads, Rows};

/// Inputs: q (n, h, w, c), then the tensors of k and of v (n or 1, kh, kw, c or more). Outputs: o
/// (n, h, w, c), lse (n, heads, h w, 1).
#[derive(Debug, Clone)]
pub struct CrossAttention {
    /// Number of heads; it divides c.
    pub heads: usize,
    /// A query sees only the keys up to its own position.
    pub causal: bool,
    /// First channel of k in the second input, and of v in the third. An input with more than c
    /// channels has no gradient.
    pub first_channels: [usize; 2],
}

/// Gradient with respect to q, and with respect to k and v if `keys`. Inputs: do, q, k, v, o, lse.
#[derive(Debug, Clone)]
pub struct CrossAttentionVjp {
    /// The forward op.
    pub forward: CrossAttention,
    /// The op also writes dk and dv.
    pub keys: bool,
}

fn tokens(s: Shape) -> usize {
    s.h * s.w
}

impl CrossAttention {
    /// Attention over whole tensors, without a causal mask.
    pub const fn new(heads: usize) -> CrossAttention {
        CrossAttention { heads, causal: false, first_channels: [0, 0] }
    }

    fn heads(&self, q: Shape) -> Heads {
        Heads { items: q.n, heads: self.heads, d: q.c / self.heads, causal: self.causal }
    }

    /// Rows of `item` in x, from channel `first` on. If x has only one item, it serves all items.
    fn rows<'a>(&self, x: &'a [f32], s: Shape, item: usize, first: usize) -> Rows<'a> {
        Rows::new(x, (tokens(s), s.c), if s.n == 1 { 0 } else { item }, first)
    }

    /// q, k and v of one head of one item.
    fn qkv<'a>(&self, x: [&'a [f32]; 3], shapes: [Shape; 3], item: usize, head: usize) -> [Rows<'a>; 3] {
        let (d, [k, v]) = (shapes[0].c / self.heads, self.first_channels);
        let firsts = [0, k, v].map(|first| first + head * d);
        std::array::from_fn(|i| self.rows(x[i], shapes[i], item, firsts[i]))
    }
}

impl Op for CrossAttention {
    fn name(&self) -> &'static str {
        "cross_attention"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 3)?;
        let (q, k) = (inputs[0].shape, inputs[1].shape);
        if self.heads == 0 || q.c % self.heads != 0 {
            return Err(format!("{} channels do not divide into {} heads", q.c, self.heads));
        }
        let items = if k.n == 1 { 1 } else { q.n };
        for (i, first) in [1, 2].into_iter().zip(self.first_channels) {
            let c = inputs[i].shape.c;
            expect_shape(inputs[i], Shape { n: items, c, ..k })?;
            if first + q.c > c {
                return Err(format!("channels {first} .. {} of a tensor with {c}", first + q.c));
            }
        }
        if self.causal && tokens(q) != tokens(k) {
            return Err(format!("causal attention of {} queries to {} keys", tokens(q), tokens(k)));
        }
        Ok(vec![storage(q), single("lse", Shape::new(q.n, self.heads, tokens(q), 1))])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let keys = r.wants(1) || r.wants(2);
        let (q, k, v) = (r.shape(0), r.shape(1), r.shape(2));
        if k.n != q.n {
            r.not_differentiable(1..3, "one set of keys serves several items")?;
        }
        if (k.c, v.c) != (q.c, q.c) {
            r.not_differentiable(1..3, "keys and values are channels of a wider tensor")?;
        }
        let name = r.name();
        let inputs = [r.dout(0)?, r.input(0), r.input(1), r.input(2), r.out(0), r.out(1)];
        let gradients = r.graph.add(CrossAttentionVjp { forward: self.clone(), keys }, &name, &inputs)?;
        for (i, gradient) in gradients.into_iter().enumerate() {
            r.give(i, gradient);
        }
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        let (q, k) = (inputs[0], inputs[1]);
        4 * (q.numel() * tokens(k)) as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let [q, k, v] = launch.inputs[..] else { unreachable!("three inputs") };
        let [qs, ks, vs] = launch.input_shapes[..] else { unreachable!("three inputs") };
        let [out, lse] = &mut launch.outputs[..] else { unreachable!("two outputs") };
        self.heads(qs).forward(|item, head| self.qkv([q, k, v], [qs, ks, vs], item, head), out, lse);
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let [q, k, v] = r.inputs[..] else { unreachable!("three inputs") };
        self.cuda([q, k, v], r.outputs[0], r.outputs[1], None).record(r);
        Ok(())
    }
}

impl Op for CrossAttentionVjp {
    fn name(&self) -> &'static str {
        "cross_attention_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 6)?;
        expect_shape(inputs[0], inputs[1].shape)?;
        let dq = storage(inputs[1].shape);
        Ok(match self.keys {
            true => vec![
                dq,
                Output { name: "dk", ..storage(inputs[2].shape) },
                Output { name: "dv", ..storage(inputs[3].shape) },
            ],
            false => vec![dq],
        })
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..6, FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        // The VJP computes the scores again, then their gradients and dq, then optionally dk and
        // dv.
        (if self.keys { 10 } else { 6 }) * (inputs[1].numel() * tokens(inputs[2])) as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let [dout, q, k, v, out, lse] = launch.inputs[..] else { unreachable!("six inputs") };
        let [_, qs, ks, vs, ..] = launch.input_shapes[..] else { unreachable!("six inputs") };
        let f = &self.forward;
        let (heads, d) = (f.heads, qs.c / f.heads);
        let results = f.heads(qs).reverse(
            |item, head| f.qkv([q, k, v], [qs, ks, vs], item, head),
            |item, head| [dout, out].map(|x| f.rows(x, qs, item, head * d)),
            lse,
        );
        for (part, to) in launch.outputs.iter_mut().enumerate() {
            for (task, parts) in results.iter().enumerate() {
                let (item, head, count) = (task / heads, task % heads, parts[part].len() / d);
                for (row, values) in parts[part].chunks(d).enumerate() {
                    to[((item * count + row) * heads + head) * d..][..d].copy_from_slice(values);
                }
            }
        }
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let [dout, q, k, v, out, lse] = r.inputs[..] else { unreachable!("six inputs") };
        let mut gradients = vec![dout];
        gradients.extend(&r.outputs);
        self.forward.cuda([q, k, v], out, lse, Some(&gradients)).record(r);
        Ok(())
    }
}
