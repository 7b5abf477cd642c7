//! Launches of the kernels in kernels/attention, except scores.cu.

use super::cross::CrossAttention;
use super::self_attention::{Attention, QkvOrder};
use crate::kernels::{self, AttentionParams};
use crate::launch::{Either, Kernel, Operand, Place, Recorder};
use crate::ops::variants::{Variant, Variants, always};
use crate::tensor::{Dtype, Shape};

/// Kernels of attention/mma.cu: (head size, rows per tile of keys forward, rows per tile in
/// reverse). A head with fewer channels is padded with zeros. See the end of
/// kernels/attention/mma.cu.
pub(super) const MMA_HEADS: [(usize, usize, usize); 5] =
    [(32, 64, 32), (48, 64, 32), (64, 64, 32), (80, 32, 32), (160, 32, 16)];

/// Head sizes for which 16-bit types also have kernels with 128 and with 160 rows per block (tiles
/// of 64 rows forward, 32 in reverse).
const PAIRED_HEADS: [usize; 2] = [48, 64];

/// Largest head size of the kernels in attention/wide.cu.
const WIDE_HEAD: usize = 512;

/// The variants of one launch of fused attention. `simt` is plain f32 arithmetic.
pub(in crate::ops) static FUSED_VARIANTS: Variants<FusedAttention> = Variants {
    op: "fused_attention",
    all: &[
        Variant {
            name: "mma_160",
            takes: |a, r| a.is_for_mma(r, 160),
            pays: FusedAttention::saves_a_turn,
            record: |a, r| a.record_mma(r, 160),
        },
        Variant {
            name: "mma_128",
            takes: |a, r| a.is_for_mma(r, 128),
            pays: |a, r| a.fills_chip(r, 128),
            record: |a, r| a.record_mma(r, 128),
        },
        Variant { name: "mma_64", takes: |a, r| a.is_for_mma(r, 64), pays: always, record: |a, r| a.record_mma(r, 64) },
        Variant { name: "wide", takes: FusedAttention::is_for_wide, pays: always, record: |a, r| a.record_wide(r) },
        Variant { name: "simt", takes: always, pays: always, record: |a, r| a.record_simt(r) },
    ],
};

/// A matrix of tokens inside a tensor: its first element, and the number of elements from one item,
/// row (token) or head to the next.
#[derive(Clone, Copy)]
pub(in crate::ops) struct CudaMatrix {
    pub(super) operand: Operand,
    pub(super) first: usize,
    pub(super) item: usize,
    pub(super) row: usize,
    pub(super) head: usize,
}

const NO_MATRIX: kernels::Matrix = kernels::Matrix { view: Either::NONE, item: 0, row: 0, head: 0 };

impl CudaMatrix {
    fn with(&self, access: impl Fn(Place) -> Either) -> kernels::Matrix {
        let CudaMatrix { item, row, head, .. } = *self;
        kernels::Matrix { view: access(self.operand.at(self.first)), item, row, head }
    }

    /// The kernel parameter of a matrix that is read.
    fn read(&self) -> kernels::Matrix {
        self.with(Either::Read)
    }

    /// The kernel parameter of a matrix that is written.
    fn write(&self) -> kernels::Matrix {
        self.with(Either::Write)
    }
}

/// Operands and sizes of the kernels in kernels/attention.
#[derive(Clone)]
pub(in crate::ops) struct CudaAttention {
    pub(super) q: CudaMatrix,
    pub(super) k: CudaMatrix,
    pub(super) v: CudaMatrix,
    pub(super) o: CudaMatrix,
    pub(super) lse: Operand,
    /// In reverse: do and dq, then dk and dv if wanted. Forward: empty.
    pub(super) reverse: Vec<CudaMatrix>,
    pub(super) items: usize,
    pub(super) heads: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) d: usize,
    pub(super) causal: bool,
}

/// A whole tensor whose heads follow each other. If it has only one item, that item serves all.
fn plain(o: Operand, heads: usize) -> CudaMatrix {
    let Shape { n, c, .. } = o.shape;
    CudaMatrix { operand: o, first: 0, item: if n == 1 { 0 } else { o.shape.item() }, row: c, head: c / heads }
}

impl Attention {
    /// q, k and v inside a packed tensor.
    fn packed(&self, qkv: Operand) -> [CudaMatrix; 3] {
        let (s, d) = (qkv.shape, qkv.shape.c / 3 / self.heads);
        let head = if self.order == QkvOrder::ByHead { 3 * d } else { d };
        self.offsets(0, d).map(|first| CudaMatrix { operand: qkv, first, item: s.item(), row: s.c, head })
    }

    pub(super) fn cuda(&self, qkv: Operand, o: Operand, lse: Operand, reverse: Option<[Operand; 2]>) -> CudaAttention {
        let [q, k, v] = self.packed(qkv);
        let reverse = reverse.map(|[dout, dqkv]| [vec![plain(dout, self.heads)], self.packed(dqkv).to_vec()].concat());
        let (s, o) = (qkv.shape, plain(o, self.heads));
        let (tokens, d) = (s.h * s.w, s.c / 3 / self.heads);
        CudaAttention {
            q,
            k,
            v,
            o,
            lse,
            reverse: reverse.unwrap_or_default(),
            items: s.n,
            heads: self.heads,
            queries: tokens,
            keys: tokens,
            d,
            causal: false,
        }
    }
}

impl CrossAttention {
    pub(super) fn cuda(
        &self,
        qkv: [Operand; 3],
        o: Operand,
        lse: Operand,
        reverse: Option<&[Operand]>,
    ) -> CudaAttention {
        let (s, keys) = (qkv[0].shape, qkv[1].shape);
        let d = s.c / self.heads;
        let inside = |o: Operand, first: usize| CudaMatrix { first, head: d, ..plain(o, self.heads) };
        let ([q, k, v], [first_key, first_value]) = (qkv, self.first_channels);
        let (q, k, v) = (plain(q, self.heads), inside(k, first_key), inside(v, first_value));
        CudaAttention {
            q,
            k,
            v,
            o: plain(o, self.heads),
            lse,
            reverse: reverse.unwrap_or_default().iter().map(|&m| plain(m, self.heads)).collect(),
            items: s.n,
            heads: self.heads,
            queries: s.h * s.w,
            keys: keys.h * keys.w,
            d,
            causal: self.causal,
        }
    }
}

/// One launch of fused attention.
pub(in crate::ops) struct FusedAttention {
    attention: CudaAttention,
    /// "" for forward, "_dq" or "_dkv".
    part: &'static str,
    /// Number of queries, or of keys for the gradients with respect to keys and values.
    tokens: usize,
    params: AttentionParams,
}

impl FusedAttention {
    fn dtype(&self) -> Dtype {
        self.attention.o.operand.dtype
    }

    fn is_reverse(&self) -> bool {
        !self.attention.reverse.is_empty()
    }

    /// Whether tensor-core kernels can read the operands. Causal attention has no such kernel: only
    /// text encoders use it, and they run once.
    fn is_for_tensor_cores(&self, r: &Recorder<'_>) -> bool {
        let (a, dtype) = (&self.attention, self.dtype());
        let matrices = || [&a.q, &a.k, &a.v].into_iter().chain(&a.reverse);
        // Kernels copy tokens in vectors of 16 bytes.
        let vector = 16 / dtype.bytes();
        let whole = |m: &CudaMatrix| [m.first, m.item, m.row, m.head].iter().all(|elements| elements % vector == 0);
        let may_use_tensor_cores = dtype != Dtype::F32 || r.tf32;
        let is_one_type = matrices().all(|m| m.operand.dtype == dtype);
        !a.causal && may_use_tensor_cores && is_one_type && a.d % vector == 0 && matrices().all(whole)
    }

    /// The head size of the kernels in attention/mma.cu for these heads, and the rows per tile of
    /// the other operand.
    fn padded_head(&self) -> Option<(usize, usize)> {
        let found = MMA_HEADS.into_iter().find(|(size, ..)| *size >= self.attention.d);
        found.map(|(size, forward, reverse)| (size, if self.is_reverse() { reverse } else { forward }))
    }

    fn blocks(&self, rows: usize) -> usize {
        self.tokens.div_ceil(rows) * self.attention.heads * self.attention.items
    }

    /// Whether there is a block for every multiprocessor.
    fn fills_chip(&self, r: &Recorder<'_>, rows: usize) -> bool {
        self.blocks(rows) >= r.chip.multiprocessors
    }

    /// Whether blocks of 160 rows take one turn of the chip where blocks of 128 rows take two. A
    /// multiprocessor runs one block of 128 or 160 rows as fast as two blocks of 64, so the number
    /// of rows of the busiest multiprocessor counts.
    fn saves_a_turn(&self, r: &Recorder<'_>) -> bool {
        let turns = |rows: usize| self.blocks(rows).div_ceil(r.chip.multiprocessors);
        self.fills_chip(r, 128) && turns(160) == 1 && turns(128) == 2
    }

    /// Bytes of shared memory of a block with `rows` rows; the layout is in attention/mma.cu.
    fn shared_of_mma(&self, head: usize, tile: usize, rows: usize) -> usize {
        let stride = head * self.dtype().bytes() + 16;
        (if self.is_reverse() { 2 } else { 1 } * rows + 4 * tile) * stride
    }

    /// Whether attention/mma.cu has a kernel with `rows` rows per block.
    fn is_for_mma(&self, r: &Recorder<'_>, rows: usize) -> bool {
        let Some((head, tile)) = self.padded_head() else { return false };
        let exists = rows == 64 || self.dtype().bytes() == 2 && PAIRED_HEADS.contains(&head);
        exists && self.is_for_tensor_cores(r) && self.shared_of_mma(head, tile, rows) <= r.chip.shared_bytes
    }

    fn record_mma(&self, r: &mut Recorder<'_>, rows: usize) {
        let (head, tile) = self.padded_head().expect("the variant takes it");
        let (name, threads) = match rows {
            64 => ("", 128),
            128 => ("x2", 128),
            _ => ("x2x5", 160),
        };
        let name = format!("attention{}_mma_{}_{head}{name}", self.part, self.dtype().name());
        self.launch(r, Kernel::named(&name), rows, threads, self.shared_of_mma(head, tile, rows));
    }

    /// Rows per block in attention/wide.cu, and its bytes of shared memory.
    fn wide_tiles(&self) -> (usize, usize) {
        let (rows, tile) = match (self.dtype().bytes(), self.is_reverse()) {
            (2, true) => (32, 32),
            (2, false) => (64, 32),
            (_, true) => (16, 16),
            (_, false) => (32, 16),
        };
        let stride = |channels: usize| channels * self.dtype().bytes() + 16;
        let (sides, factors) = if self.is_reverse() { (2, 0) } else { (1, 4 * rows) };
        let scores = rows * (stride(tile) + 4 * (tile + 8));
        (rows, (sides * rows + 2 * tile) * stride(WIDE_HEAD) + sides * scores + factors)
    }

    fn is_for_wide(&self, r: &Recorder<'_>) -> bool {
        self.attention.d <= WIDE_HEAD && self.is_for_tensor_cores(r) && self.wide_tiles().1 <= r.chip.shared_bytes
    }

    fn record_wide(&self, r: &mut Recorder<'_>) {
        let (rows, shared) = self.wide_tiles();
        let name = format!("attention{}_wide_{}", self.part, self.dtype().name());
        self.launch(r, Kernel::named(&name), rows, 256, shared);
    }

    fn record_simt(&self, r: &mut Recorder<'_>) {
        let row = 4 * (self.attention.d + 1);
        match self.part {
            "" => self.launch(r, kernels::ATTENTION_SIMT, 8, 128, (8 + 16 + 16 + 8) * row + 4 * (128 + 24)),
            "_dq" => self.launch(r, kernels::ATTENTION_DQ_SIMT, 4, 64, (12 + 32) * row + 4 * 128),
            _ => self.launch(r, kernels::ATTENTION_DKV_SIMT, 4, 64, (16 + 32) * row + 4 * 128),
        }
    }

    fn launch(
        &self,
        r: &mut Recorder<'_>,
        kernel: Kernel<AttentionParams>,
        rows: usize,
        threads: usize,
        shared: usize,
    ) {
        let grid = [self.tokens.div_ceil(rows), self.attention.heads, self.attention.items];
        r.launch(kernel, grid, threads, shared, self.params);
    }
}

impl CudaAttention {
    /// The parameters of a forward launch. In reverse all matrices are marked as read; each launch
    /// then marks the ones that it writes.
    fn params(&self, delta: Option<Operand>) -> AttentionParams {
        let is_forward = self.reverse.is_empty();
        let reverse = |i: usize| self.reverse.get(i).map_or(NO_MATRIX, |m| m.read());
        AttentionParams {
            q: self.q.read(),
            k: self.k.read(),
            v: self.v.read(),
            o: if is_forward { self.o.write() } else { self.o.read() },
            dout: reverse(0),
            dq: reverse(1),
            dk: reverse(2),
            dv: reverse(3),
            lse: if is_forward { Either::Write(self.lse.into()) } else { Either::Read(self.lse.into()) },
            delta: delta.into(),
            queries: self.queries,
            keys: self.keys,
            d: self.d,
            heads: self.heads,
            scale: self.scale(),
            causal: self.causal.into(),
        }
    }

    pub(super) fn scale(&self) -> f32 {
        (self.d as f32).sqrt().recip()
    }

    /// The sum over channels of do o for each query and head, in scratch.
    pub(super) fn record_delta(&self, r: &mut Recorder<'_>) -> Operand {
        let delta = r.scratch(self.items * self.heads * self.queries);
        let grid = [self.queries.div_ceil(8), self.heads, self.items];
        r.launch(kernels::ATTENTION_DELTA, grid, 256, 0, self.params(Some(delta)));
        delta
    }

    /// Records fused attention: scores and probabilities stay on the chip.
    pub(super) fn record_fused(&self, r: &mut Recorder<'_>) {
        let record = |r: &mut Recorder<'_>, part, tokens, params| {
            r.record_best(&FUSED_VARIANTS, &FusedAttention { attention: self.clone(), part, tokens, params });
        };
        if self.reverse.is_empty() {
            return record(r, "", self.queries, self.params(None));
        }
        let delta = self.record_delta(r);
        let params = self.params(Some(delta));
        record(r, "_dq", self.queries, AttentionParams { dq: self.reverse[1].write(), ..params });
        if let [_, _, dk, dv] = self.reverse[..] {
            record(r, "_dkv", self.keys, AttentionParams { dk: dk.write(), dv: dv.write(), ..params });
        }
    }
}
