//! Launches of kernels/attention.cu and kernels/attention_simt.cu.

use super::{Attention, QkvOrder};
use crate::backend::cuda::launch::type_name;
use crate::backend::cuda::{Operand, Params, Recorder};
use crate::graph::Dtype;

/// Head sizes that the tensor-core kernels are made for, a head of fewer channels padded with zeros, and rows of the other side
/// in a tile, forward and in reverse: see the end of kernels/attention.cu.
const MMA_HEADS: [(usize, usize, usize); 5] = [(32, 64, 32), (48, 64, 32), (64, 64, 32), (80, 32, 32), (160, 32, 16)];

/// A matrix of tokens inside a tensor: elements between items, tokens and heads, and its first element.
#[derive(Clone, Copy)]
struct CudaMatrix {
    operand: Operand,
    first: usize,
    item: usize,
    row: usize,
    head: usize,
}

/// Everything that kernels/attention.cu is given.
pub(super) struct CudaAttention {
    q: CudaMatrix,
    k: CudaMatrix,
    v: CudaMatrix,
    o: CudaMatrix,
    lse: Operand,
    /// do, and dq, dk, dv in the reverse.
    reverse: Option<[CudaMatrix; 4]>,
    items: usize,
    heads: usize,
    tokens: usize,
    d: usize,
}

impl Attention {
    /// q, k, v inside a packed tensor.
    fn packed(&self, qkv: Operand) -> [CudaMatrix; 3] {
        let (s, d) = (qkv.shape, qkv.shape.c / 3 / self.heads);
        let head = if self.order == QkvOrder::ByHead { 3 * d } else { d };
        self.offsets(0, d).map(|first| CudaMatrix { operand: qkv, first, item: s.item(), row: s.c, head })
    }

    fn plain(&self, o: Operand) -> CudaMatrix {
        CudaMatrix { operand: o, first: 0, item: o.shape.item(), row: o.shape.c, head: o.shape.c / self.heads }
    }

    pub(super) fn cuda(&self, qkv: Operand, o: Operand, lse: Operand, reverse: Option<[Operand; 2]>) -> CudaAttention {
        let [q, k, v] = self.packed(qkv);
        let reverse = reverse.map(|[dout, dqkv]| {
            let [dq, dk, dv] = self.packed(dqkv);
            [self.plain(dout), dq, dk, dv]
        });
        let s = qkv.shape;
        let (tokens, d) = (s.h * s.w, s.c / 3 / self.heads);
        CudaAttention { q, k, v, o: self.plain(o), lse, reverse, items: s.n, heads: self.heads, tokens, d }
    }
}

impl CudaAttention {
    /// The instance of the tensor-core kernels that takes these heads: (padded head size, tile forward, tile in reverse).
    fn instance(&self, r: &Recorder<'_>) -> Option<(usize, usize, usize)> {
        let dtype = self.o.operand.dtype;
        let gradients = self.reverse.iter().flatten();
        let one_type = [&self.q, &self.k, &self.v].into_iter().chain(gradients).all(|m| m.operand.dtype == dtype);
        if !one_type || self.d % (16 / dtype.bytes()) != 0 || (r.strict && dtype == Dtype::F32) {
            return None;
        }
        let found = MMA_HEADS.into_iter().find(|(size, ..)| *size >= self.d)?;
        let rows = if self.reverse.is_some() { 128 + 4 * found.2 } else { 64 + 4 * found.1 };
        (rows * self.stride(found.0) <= r.limits.shared_bytes).then_some(found)
    }

    fn stride(&self, head: usize) -> usize {
        head * self.o.operand.dtype.bytes() + 16
    }

    fn params(&self, delta: Option<&Operand>, writes: &[usize]) -> Params {
        let gradients: Vec<Option<CudaMatrix>> = match self.reverse {
            Some(all) => all.map(Some).to_vec(),
            None => vec![None; 4],
        };
        let matrices = [Some(self.q), Some(self.k), Some(self.v), Some(self.o)].into_iter().chain(gradients);
        let mut params = Params::new();
        for (i, matrix) in matrices.enumerate() {
            params = match matrix {
                Some(m) => {
                    let view = if writes.contains(&i) {
                        params.view_out_at(&m.operand, m.first)
                    } else {
                        params.view_at(&m.operand, m.first)
                    };
                    view.i64(m.item).i32s(&[m.row, m.head])
                }
                None => params.i64(0).i64(0).i64(0).i32s(&[0, 0]),
            };
        }
        // lse is an output of the forward pass; delta is scratch of the reverse.
        let params = if self.reverse.is_none() { params.write(&self.lse) } else { params.read(&self.lse) };
        let params = params.write_if(delta);
        let scale = (self.d as f32).sqrt().recip();
        params.i32s(&[self.tokens, self.tokens, self.d, self.heads]).f32(scale).i32(0)
    }

    pub(super) fn record_forward(&self, r: &mut Recorder<'_>) {
        let params = self.params(None, &[3]);
        let (d, grid) = (self.d, |rows: usize| [self.tokens.div_ceil(rows), self.heads, self.items]);
        match self.instance(r) {
            Some((head, keys, _)) => {
                let name = format!("attention::attention_mma_{}_{head}", type_name(self.o.operand.dtype));
                r.launch(name, grid(64), 128, (64 + 4 * keys) * self.stride(head), params);
            }
            None => {
                let shared = 4 * ((8 + 16 + 16 + 8) * (d + 1) + 128 + 24);
                r.launch("attention_simt", grid(8), 128, shared, params);
            }
        }
    }

    pub(super) fn record_reverse(&self, r: &mut Recorder<'_>) {
        let delta = r.scratch(self.items * self.heads * self.tokens);
        let (d, grid) = (self.d, |rows: usize| [self.tokens.div_ceil(rows), self.heads, self.items]);
        r.launch("attention_simt::attention_delta", grid(8), 256, 0, self.params(Some(&delta), &[]));
        for (part, writes, simt_rows) in [("dq", &[5][..], 12), ("dkv", &[6, 7][..], 16)] {
            let params = self.params(Some(&delta), writes);
            match self.instance(r) {
                Some((head, _, rows)) => {
                    let name = format!("attention::attention_{part}_mma_{}_{head}", type_name(self.o.operand.dtype));
                    r.launch(name, grid(64), 128, (128 + 4 * rows) * self.stride(head), params);
                }
                None => {
                    let shared = 4 * ((simt_rows + 32) * (d + 1) + 128);
                    r.launch(format!("attention_simt::attention_{part}_simt"), grid(4), 64, shared, params);
                }
            }
        }
    }
}
