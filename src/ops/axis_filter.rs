//! A sparse linear map along height or width: `y[i] = sum over taps (j, w) of row i of w x[j]`
//!
//! Resizing and separable blur are such maps; the taps already contain the boundary handling.
//! VJP: `dx[j] = sum over (i, w) with (j, w) in row i of w dy[i]`: the same op, transposed taps.

use super::prelude::*;
use crate::backend::cpu::matmul::matmul;
use crate::graph::record::{Graph, TensorId};
use rayon::prelude::*;
use std::f64::consts::PI;
use std::sync::Arc;

/// A sparse matrix: for every output position the input positions that it reads, with weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Taps {
    /// For every output position its taps (input position, weight).
    pub rows: Vec<Vec<(usize, f32)>>,
    /// Number of input positions.
    pub inputs: usize,
}

impl Taps {
    /// The orthonormal cosine transform (DCT-II) of `n` values: row k holds basis vector k.
    pub fn cosine_transform(n: usize) -> Taps {
        let value = |k: usize, j: usize| {
            let scale = if k == 0 { 1.0 } else { 2.0 } / n as f64;
            scale.sqrt() * (PI * k as f64 * (j as f64 + 0.5) / n as f64).cos()
        };
        Taps { rows: (0..n).map(|k| (0..n).map(|j| (j, value(k, j) as f32)).collect()).collect(), inputs: n }
    }

    /// True if every output reads every input in order: the map is then a dense matrix.
    fn is_dense(&self) -> bool {
        self.rows.iter().all(|row| row.len() == self.inputs && row.iter().enumerate().all(|(j, tap)| tap.0 == j))
    }

    /// The transposed map.
    pub fn transposed(&self) -> Taps {
        let mut rows = vec![Vec::new(); self.inputs];
        for (i, row) in self.rows.iter().enumerate() {
            for &(j, w) in row {
                rows[j].push((i, w));
            }
        }
        Taps { rows, inputs: self.rows.len() }
    }
}

/// Dimension of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// The map mixes rows.
    Height,
    /// The map mixes columns.
    Width,
}

/// Applies a map along one dimension. Input: x.
#[derive(Debug, Clone)]
pub struct AxisFilter {
    /// The dimension along which the map mixes values.
    pub axis: Axis,
    /// The map.
    pub taps: Arc<Taps>,
}

impl Op for AxisFilter {
    fn name(&self) -> &'static str {
        "axis_filter"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        let x = inputs[0].shape;
        let extent = if self.axis == Axis::Height { x.h } else { x.w };
        if extent != self.taps.inputs {
            return Err(format!("the taps are for {} positions, x has {extent}", self.taps.inputs));
        }
        let out = self.taps.rows.len();
        let shape = if self.axis == Axis::Height { Shape { h: out, ..x } } else { Shape { w: out, ..x } };
        Ok(vec![single("", shape)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, name) = (r.dout(0)?, r.name());
        let op = AxisFilter { axis: self.axis, taps: Arc::new(self.taps.transposed()) };
        let dx = r.graph.one(op, &name, &[dout])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, _: &[Shape], outputs: &[Shape]) -> u64 {
        let taps: usize = self.taps.rows.iter().map(Vec::len).sum();
        (2 * taps * outputs[0].numel() / self.taps.rows.len().max(1)) as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        if self.taps.is_dense() {
            return self.run_dense(launch);
        }
        let (s, o, x) = (launch.input_shapes[0], launch.output_shapes[0], launch.inputs[0]);
        let row = s.w * s.c;
        launch.outputs[0].par_chunks_mut(o.w * o.c).enumerate().for_each(|(k, out)| {
            let (n, i) = (k / o.h, k % o.h);
            out.fill(0.0);
            match self.axis {
                Axis::Height => {
                    for &(j, w) in &self.taps.rows[i] {
                        out.iter_mut().zip(&x[(n * s.h + j) * row..]).for_each(|(o, x)| *o += w * x);
                    }
                }
                Axis::Width => {
                    let x = &x[k * row..][..row];
                    for (out, taps) in out.chunks_mut(s.c).zip(&self.taps.rows) {
                        for &(j, w) in taps {
                            out.iter_mut().zip(&x[j * s.c..]).for_each(|(o, x)| *o += w * x);
                        }
                    }
                }
            };
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, y) = (r.inputs[0], r.outputs[0]);
        let (s, rows) = (x.shape, self.taps.rows.len());
        let inside = if self.axis == Axis::Height { s.w * s.c } else { s.c };
        let taps = self.taps.rows.iter().map(Vec::len).max().unwrap_or(0);
        // The kernel goes through tap k of all rows, then tap k + 1. A shorter row repeats its last
        // input with weight 0.
        let tap = |k: usize, row: &Vec<(usize, f32)>| {
            row.get(k).copied().unwrap_or((row.last().map_or(0, |last| last.0), 0.0))
        };
        let all: Vec<(usize, f32)> =
            (0..taps).flat_map(|k| self.taps.rows.iter().map(move |row| tap(k, row))).collect();
        let index = r.table(&all.iter().map(|t| t.0 as i32).collect::<Vec<_>>())?;
        let weight = r.table(&all.iter().map(|t| t.1).collect::<Vec<_>>())?;
        let params = kernels::AxisFilterParams {
            y: y.into(),
            x: x.into(),
            index: index.into(),
            weight: weight.into(),
            count: y.shape.numel(),
            rows,
            inputs: self.taps.inputs,
            taps,
            inside,
        };
        r.each(kernels::AXIS_FILTER, y.shape.numel(), 1, params);
        Ok(())
    }
}

impl AxisFilter {
    /// A dense map as matrix products. The blocks of output rows have a fixed size, so that sums do
    /// not depend on the number of threads.
    fn run_dense(&self, launch: &mut CpuArguments<'_>) {
        const ROWS: usize = 32;
        let (s, o, x) = (launch.input_shapes[0], launch.output_shapes[0], launch.inputs[0]);
        let weights: Vec<f32> = self.taps.rows.iter().flatten().map(|tap| tap.1).collect();
        let (row, out_row) = (s.w * s.c, o.w * o.c);
        launch.outputs[0].par_chunks_mut(o.item()).zip(x.par_chunks(s.item())).for_each(|(out, x)| {
            out.par_chunks_mut(ROWS * out_row).enumerate().for_each(|(block, out)| {
                let (first, rows) = (block * ROWS, out.len() / out_row);
                match self.axis {
                    Axis::Height => {
                        let weights = &weights[first * s.h..];
                        matmul((rows, row, s.h), out, (row, 1), false, weights, (s.h, 1), x, (row, 1), 1.0);
                    }
                    Axis::Width => {
                        for c in 0..s.c {
                            let (out, x) = (&mut out[c..], &x[first * row + c..]);
                            let (to, from) = ((out_row, s.c), (row, s.c));
                            matmul((rows, o.w, s.w), out, to, false, x, from, &weights, (1, s.w), 1.0);
                        }
                    }
                }
            });
        });
    }
}

impl Graph {
    /// A map along the height and then one along the width, in the nodes `name.rows` and
    /// `name.columns`.
    pub fn along_axes(&mut self, name: &str, x: TensorId, [rows, columns]: [Arc<Taps>; 2]) -> Result<TensorId> {
        let x = self.one(AxisFilter { axis: Axis::Height, taps: rows }, &format!("{name}.rows"), &[x])?;
        self.one(AxisFilter { axis: Axis::Width, taps: columns }, &format!("{name}.columns"), &[x])
    }
}
