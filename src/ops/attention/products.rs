//! Attention with one wide head as matrix products (kernels/conv/wgmma.cu), with the softmax and
//! its gradient between them (kernels/attention/scores.cu).

use super::launch::{CudaAttention, CudaMatrix, MMA_HEADS};
use crate::kernels;
use crate::launch::{Kernel, Operand, Place, Recorder};
use crate::ops::conv::CudaConv;
use crate::ops::variants::{Variant, Variants, always};
use crate::tensor::{Dtype, Shape};

/// The tokens of one item, as a matrix (tokens, channels).
fn rows_of(m: &CudaMatrix, item: usize, tokens: usize, channels: usize) -> Operand {
    let size = m.operand.dtype.bytes();
    let address = m.operand.address + ((m.first + item * m.item) * size) as u64;
    Operand {
        address,
        bytes: (tokens * channels * size) as u64,
        shape: Shape::new(1, 1, tokens, channels),
        ..m.operand
    }
}

/// A matrix (rows, columns) as a weight (rows, 1, 1, columns).
fn as_weight(o: Operand) -> Operand {
    Operand { shape: Shape::new(o.shape.w, 1, 1, o.shape.c), ..o }
}

/// y = a b, where b has as many rows as a has columns.
fn multiply(r: &mut Recorder<'_>, a: Operand, b: Operand, y: Operand) {
    CudaConv { gradient: true, ..CudaConv::product(a, as_weight(b), None, y) }.record(r);
}

/// The variants of attention. `products` needs scratch for the scores, f32 (queries, keys).
pub(in crate::ops) static VARIANTS: Variants<CudaAttention> = Variants {
    op: "attention",
    all: &[
        Variant {
            name: "products",
            takes: CudaAttention::is_for_products,
            pays: |a, _| a.is_wide(),
            record: |a, r| match a.reverse.is_empty() {
                true => a.record_forward_by_products(r),
                false => a.record_reverse_by_products(r),
            },
        },
        Variant { name: "fused", takes: always, pays: always, record: |a, r| a.record_fused(r) },
    ],
};

impl CudaAttention {
    /// Records the best variant, forward or in reverse.
    pub(super) fn record(&self, r: &mut Recorder<'_>) {
        r.record_best(&VARIANTS, self);
    }

    /// Whether the operands are plain matrices in 16 bits with whole vectors.
    fn is_for_products(&self, r: &Recorder<'_>) -> bool {
        let dtype = self.o.operand.dtype;
        let matrices = [&self.q, &self.k, &self.v, &self.o];
        let is_plain = matrices.into_iter().chain(&self.reverse).all(|m| m.row == self.d && m.operand.dtype == dtype);
        r.chip.wgmma
            && dtype != Dtype::F32
            && is_plain
            && (self.heads, self.causal) == (1, false)
            && [self.d, self.queries, self.keys].iter().all(|n| n % 8 == 0)
    }

    /// Wide heads with many tokens.
    fn is_wide(&self) -> bool {
        MMA_HEADS.iter().all(|&(size, ..)| size < self.d) && self.queries.min(self.keys) >= 128
    }

    /// Scratch for a matrix (queries, keys), or (keys, queries) if `transposed`.
    fn scores(&self, r: &mut Recorder<'_>, dtype: Dtype, transposed: bool) -> Operand {
        let shape = match transposed {
            false => Shape::new(1, 1, self.queries, self.keys),
            true => Shape::new(1, 1, self.keys, self.queries),
        };
        let bytes = shape.numel() * dtype.bytes();
        Operand { dtype, shape, bytes: bytes as u64, ..r.scratch(bytes / 4) }
    }

    fn record_forward_by_products(&self, r: &mut Recorder<'_>) {
        let dtype = self.o.operand.dtype;
        let (scores, probabilities) = (self.scores(r, Dtype::F32, false), self.scores(r, dtype, false));
        for item in 0..self.items {
            let q = rows_of(&self.q, item, self.queries, self.d);
            let [k, v] = [&self.k, &self.v].map(|m| rows_of(m, item, self.keys, self.d));
            CudaConv::product(q, as_weight(k), None, scores).record_sums(r);
            let params = kernels::SoftmaxParams {
                probabilities: probabilities.into(),
                lse: self.lse.at(item * self.queries),
                scores: scores.into(),
                queries: self.queries,
                keys: self.keys,
                scale: self.scale(),
            };
            let kernel = Kernel::named(&format!("attention_softmax_{}", dtype.name()));
            r.launch(kernel, [self.queries, 1, 1], 256, 4 * 256 / 32, params);
            multiply(r, probabilities, v, rows_of(&self.o, item, self.queries, self.d));
        }
    }

    fn record_reverse_by_products(&self, r: &mut Recorder<'_>) {
        let delta = self.record_delta(r);
        let dtype = self.o.operand.dtype;
        let [scores, dp] = [(); 2].map(|()| self.scores(r, Dtype::F32, false));
        let ds = self.scores(r, dtype, false);
        let wants_keys = self.reverse.len() > 2;
        let transposed = wants_keys.then(|| [(); 2].map(|()| self.scores(r, dtype, true)));
        for item in 0..self.items {
            let queries = |m: &CudaMatrix| rows_of(m, item, self.queries, self.d);
            let keys = |m: &CudaMatrix| rows_of(m, item, self.keys, self.d);
            let (q, k, v, dout) = (queries(&self.q), keys(&self.k), keys(&self.v), queries(&self.reverse[0]));
            CudaConv::product(q, as_weight(k), None, scores).record_sums(r);
            CudaConv::product(dout, as_weight(v), None, dp).record_sums(r);
            let first = item * self.queries;
            let [ds_transposed, p_transposed] = transposed.map_or([Place::NONE; 2], |both| both.map(Place::from));
            let params = kernels::ScoreGradientParams {
                ds: ds.into(),
                ds_transposed,
                p_transposed,
                scores: scores.into(),
                dp: dp.into(),
                lse: self.lse.at(first),
                delta: delta.at(first),
                queries: self.queries,
                keys: self.keys,
                scale: self.scale(),
            };
            let kernel = Kernel::named(&format!("attention_score_gradients_{}", dtype.name()));
            r.launch(kernel, [self.keys.div_ceil(64), self.queries.div_ceil(64), 1], 256, 2 * 2 * 64 * 68, params);
            multiply(r, ds, k, queries(&self.reverse[1]));
            if let Some([ds_transposed, p_transposed]) = transposed {
                multiply(r, ds_transposed, q, keys(&self.reverse[2]));
                multiply(r, p_transposed, dout, keys(&self.reverse[3]));
            }
        }
    }
}
