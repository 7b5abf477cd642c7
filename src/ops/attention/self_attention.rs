//! Multi-head self-attention on a packed qkv tensor. The score matrix is never stored as a whole.
//!
//! `S = scale q k^T` (scale = d^-1/2), `P = softmax(S)`, `o = P v`, `lse = log sum exp S` per row.
//! VJP: P = exp(S - lse) is computed again block by block. With delta = rowsum(do * o):
//! dv = P^T do, dS = P * (do v^T - delta), dq = scale dS k, dk = scale dS^T q.
//! It reads qkv, o, lse and do.

use super::super::prelude::*;
use super::cpu::{Heads, Rows};

/// Position of q, k and v of head `h` among the 3c channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkvOrder {
    /// Head after head, each `[q | k | v]` ("legacy" in guided-diffusion).
    ByHead,
    /// All q, all k, all v, each head after head ("new" in guided-diffusion).
    ByKind,
}

/// Self-attention over the pixels of an item. Input: qkv (n, h, w, 3c). Outputs: o (n, h, w, c),
/// lse (n, heads, h w, 1).
#[derive(Debug, Clone)]
pub struct Attention {
    /// Number of heads; it divides c.
    pub heads: usize,
    /// Order of the channels in qkv.
    pub order: QkvOrder,
}

/// Gradient with respect to qkv. Inputs: do, qkv, o, lse.
#[derive(Debug, Clone)]
pub struct AttentionVjp(pub Attention);

impl Attention {
    /// First channel of q, k and v of head `h`, for heads of `d` channels.
    pub(super) fn offsets(&self, h: usize, d: usize) -> [usize; 3] {
        match self.order {
            QkvOrder::ByHead => [3 * h * d, (3 * h + 1) * d, (3 * h + 2) * d],
            QkvOrder::ByKind => [h * d, (self.heads + h) * d, (2 * self.heads + h) * d],
        }
    }

    /// q, k and v of one head of one item.
    fn rows<'a>(&self, qkv: &'a [f32], s: Shape, item: usize, head: usize) -> [Rows<'a>; 3] {
        self.offsets(head, s.c / 3 / self.heads).map(|first| Rows::new(qkv, (s.h * s.w, s.c), item, first))
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        let s = inputs[0].shape;
        if self.heads == 0 || s.c % (3 * self.heads) != 0 {
            return Err(format!("{} channels do not divide into q, k, v of {} heads", s.c, self.heads));
        }
        Ok(vec![storage(Shape { c: s.c / 3, ..s }), single("lse", Shape::new(s.n, self.heads, s.h * s.w, 1))])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let name = r.name();
        let inputs = [r.dout(0)?, r.input(0), r.out(0), r.out(1)];
        let dqkv = r.graph.one(AttentionVjp(self.clone()), &name, &inputs)?;
        r.give(0, dqkv);
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        let s = inputs[0];
        let tokens = (s.h * s.w) as u64;
        4 * s.n as u64 * tokens * tokens * (s.c / 3) as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let s = launch.input_shapes[0];
        let qkv = launch.inputs[0];
        let heads = Heads { items: s.n, heads: self.heads, d: s.c / 3 / self.heads, causal: false };
        let [out, lse] = &mut launch.outputs[..] else { unreachable!("two outputs") };
        heads.forward(|item, head| self.rows(qkv, s, item, head), out, lse);
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let attention = self.cuda(r.inputs[0], r.outputs[0], r.outputs[1], None);
        attention.record(r);
        Ok(())
    }
}

impl Op for AttentionVjp {
    fn name(&self) -> &'static str {
        "attention_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 4)?;
        expect_shape(inputs[2], inputs[0].shape)?;
        Ok(vec![storage(inputs[1].shape)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..4, FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        let s = inputs[0];
        let tokens = (s.h * s.w) as u64;
        10 * s.n as u64 * tokens * tokens * s.c as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let s = launch.input_shapes[1];
        let (tokens, c, heads) = (s.h * s.w, s.c / 3, self.0.heads);
        let d = c / heads;
        let [dout, qkv, out, lse] = launch.inputs[..] else { unreachable!("four inputs") };
        let results = Heads { items: s.n, heads, d, causal: false }.reverse(
            |item, head| self.0.rows(qkv, s, item, head),
            |item, head| [dout, out].map(|x| Rows::new(x, (tokens, c), item, head * d)),
            lse,
        );
        let dqkv = &mut *launch.outputs[0];
        for (task, parts) in results.iter().enumerate() {
            let (item, head) = (task / heads, task % heads);
            for (part, offset) in parts.iter().zip(self.0.offsets(head, d)) {
                for (row, values) in part.chunks(d).enumerate() {
                    dqkv[(item * tokens + row) * s.c + offset..][..d].copy_from_slice(values);
                }
            }
        }
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let [dout, qkv, out, lse] = r.inputs[..] else { unreachable!("four inputs") };
        let attention = self.0.cuda(qkv, out, lse, Some([dout, r.outputs[0]]));
        attention.record(r);
        Ok(())
    }
}
