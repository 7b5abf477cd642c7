//! Launches of the kernels in kernels/attention, except scores.cu.

use super::cross::CrossAttention;
use super::self_attention::{Attention, QkvOrder};
use crate::kernels::{self, AttentionParams};
use crate::launch::{Either, Kernel, Operand, Place, Recorder};
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

/// A family of tensor-core kernels, with the sizes that select the kernel.
#[derive(Clone, Copy)]
enum Instance {
    /// attention/mma.cu: padded head size, rows per block, rows per tile of the other operand.
    Narrow { head: usize, rows: usize, tile: usize },
    /// attention/wide.cu: rows per block, rows per tile of the other operand.
    Wide { rows: usize, tile: usize },
}

/// A matrix of tokens inside a tensor: its first element, and the number of elements from one item,
/// row (token) or head to the next.
#[derive(Clone, Copy)]
pub(super) struct CudaMatrix {
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
pub(super) struct CudaAttention {
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

impl CudaAttention {
    /// The tensor-core kernels for this attention over `tokens` rows; none if no kernel fits. The
    /// direction matters, because forward and reverse kernels have different tiles.
    fn instance(&self, r: &Recorder<'_>, tokens: usize) -> Option<Instance> {
        let dtype = self.o.operand.dtype;
        let matrices = || [&self.q, &self.k, &self.v].into_iter().chain(&self.reverse);
        let one_type = matrices().all(|m| m.operand.dtype == dtype);
        // Kernels copy tokens in vectors of 16 bytes.
        let vector = 16 / dtype.bytes();
        let whole = |m: &CudaMatrix| [m.first, m.item, m.row, m.head].iter().all(|elements| elements % vector == 0);
        // Causal attention has no tensor-core kernel: only text encoders use it, and they run once.
        let vectors = self.d % vector == 0 && matrices().all(whole);
        if self.causal || !one_type || !vectors || (r.strict && dtype == Dtype::F32) {
            return None;
        }
        let reverse = !self.reverse.is_empty();
        // A multiprocessor runs one block of 128 or 160 rows as fast as two blocks of 64. So the
        // kernel is chosen by the number of rows that the busiest multiprocessor processes.
        let blocks = |rows: usize| tokens.div_ceil(rows) * self.heads * self.items;
        let turns = |rows: usize| blocks(rows).div_ceil(r.limits.multiprocessors);
        let rows_in_pairs = if turns(160) == 1 && turns(128) == 2 { 160 } else { 128 };
        let fill_chip = blocks(128) >= r.limits.multiprocessors;
        let narrow = MMA_HEADS.into_iter().find(|(size, ..)| *size >= self.d);
        let found = match (narrow, dtype.bytes()) {
            (Some((head, forward, back)), bytes) => {
                let rows = if bytes == 2 && fill_chip && PAIRED_HEADS.contains(&head) { rows_in_pairs } else { 64 };
                Instance::Narrow { head, rows, tile: if reverse { back } else { forward } }
            }
            (None, _) if self.d > WIDE_HEAD => return None,
            (None, 2) => Instance::Wide { rows: if reverse { 32 } else { 64 }, tile: 32 },
            (None, _) => Instance::Wide { rows: if reverse { 16 } else { 32 }, tile: 16 },
        };
        (self.shared(found) <= r.limits.shared_bytes).then_some(found)
    }

    /// Bytes of shared memory; the layout is in the kernels.
    fn shared(&self, instance: Instance) -> usize {
        let (bytes, reverse) = (self.o.operand.dtype.bytes(), !self.reverse.is_empty());
        let stride = |channels: usize| channels * bytes + 16;
        match instance {
            Instance::Narrow { head, rows, tile } => (if reverse { 2 } else { 1 } * rows + 4 * tile) * stride(head),
            Instance::Wide { rows, tile } => {
                let (sides, factors) = if reverse { (2, 0) } else { (1, 4 * rows) };
                let scores = rows * (stride(tile) + 4 * (tile + 8));
                (sides * rows + 2 * tile) * stride(WIDE_HEAD) + sides * scores + factors
            }
        }
    }

    /// Launches the kernel `part` ("" for forward, "_dq", "_dkv") over `tokens` rows.
    fn launch(&self, r: &mut Recorder<'_>, instance: Instance, part: &str, tokens: usize, params: AttentionParams) {
        let dtype = self.o.operand.dtype.name();
        let (name, rows, threads) = match instance {
            Instance::Narrow { head, rows, .. } => {
                let (name, threads) = match rows {
                    64 => ("", 128),
                    128 => ("x2", 128),
                    _ => ("x2x5", 160),
                };
                (format!("attention{part}_mma_{dtype}_{head}{name}"), rows, threads)
            }
            Instance::Wide { rows, .. } => (format!("attention{part}_wide_{dtype}"), rows, 256),
        };
        let kernel = Kernel::named(&name);
        r.launch(kernel, [tokens.div_ceil(rows), self.heads, self.items], threads, self.shared(instance), params);
    }

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

    pub(super) fn record_forward(&self, r: &mut Recorder<'_>) {
        if self.is_by_products(r) {
            return self.record_forward_by_products(r);
        }
        let params = self.params(None);
        match self.instance(r, self.queries) {
            Some(instance) => self.launch(r, instance, "", self.queries, params),
            None => {
                let shared = 4 * ((8 + 16 + 16 + 8) * (self.d + 1) + 128 + 24);
                let grid = [self.queries.div_ceil(8), self.heads, self.items];
                r.launch(kernels::ATTENTION_SIMT, grid, 128, shared, params);
            }
        }
    }

    pub(super) fn record_reverse(&self, r: &mut Recorder<'_>) {
        let delta = r.scratch(self.items * self.heads * self.queries);
        let grid = |tokens: usize, rows: usize| [tokens.div_ceil(rows), self.heads, self.items];
        let (d, params) = (self.d, self.params(Some(delta)));
        r.launch(kernels::ATTENTION_DELTA, grid(self.queries, 8), 256, 0, params);
        if self.is_by_products(r) {
            return self.record_reverse_by_products(r, delta);
        }
        let record = |r: &mut Recorder<'_>, part, tokens, simt: (_, usize), params| match self.instance(r, tokens) {
            Some(instance) => self.launch(r, instance, part, tokens, params),
            None => r.launch(simt.0, grid(tokens, 4), 64, 4 * ((simt.1 + 32) * (d + 1) + 128), params),
        };
        let of_queries = AttentionParams { dq: self.reverse[1].write(), ..params };
        record(r, "_dq", self.queries, (kernels::ATTENTION_DQ_SIMT, 12), of_queries);
        if let [_, _, dk, dv] = self.reverse[..] {
            let of_keys = AttentionParams { dk: dk.write(), dv: dv.write(), ..params };
            record(r, "_dkv", self.keys, (kernels::ATTENTION_DKV_SIMT, 16), of_keys);
        }
    }
}
