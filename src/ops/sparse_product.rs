//! A sparse matrix times every item of a batch: `y[n, i] = sum over j of M[i, j] x[n, j]`
//!
//! An item is seen as one vector, its values in the order of memory. VJP: `dx[n, j] = sum over i of
//! M[i, j] dy[n, i]`, the same op with the transposed matrix. M belongs to the op and has no
//! gradient.

use super::axis_filter::Taps;
use super::prelude::*;
use rayon::prelude::*;
use std::sync::Arc;

/// The product. Input: x (n, h, w, c). Output (n, h', w', c').
#[derive(Debug, Clone)]
pub struct SparseProduct {
    /// M; a row per value of the output.
    pub matrix: Arc<Taps>,
    /// Shape of an item of the output (n = 1).
    pub item: Shape,
}

impl Op for SparseProduct {
    fn name(&self) -> &'static str {
        "sparse_product"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        let x = inputs[0].shape;
        if self.matrix.inputs != x.item() || self.matrix.rows.len() != self.item.item() {
            let (rows, columns) = (self.matrix.rows.len(), self.matrix.inputs);
            return Err(format!("a matrix of {rows} x {columns} does not make {} of {x}", self.item));
        }
        Ok(vec![single("", Shape { n: x.n, ..self.item })])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, name, x) = (r.dout(0)?, r.name(), r.shape(0));
        let op = SparseProduct { matrix: Arc::new(self.matrix.transposed()), item: Shape { n: 1, ..x } };
        let dx = r.graph.one(op, &name, &[dout])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        (2 * inputs[0].n * self.matrix.rows.iter().map(Vec::len).sum::<usize>()) as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (x, item) = (launch.inputs[0], launch.input_shapes[0].item());
        for (n, out) in launch.outputs[0].chunks_mut(self.item.item()).enumerate() {
            let x = &x[n * item..][..item];
            let sum = |row: &Vec<(usize, f32)>| row.iter().map(|&(j, m)| m * x[j]).sum();
            out.par_iter_mut().zip(&self.matrix.rows).for_each(|(y, row)| *y = sum(row));
        }
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, y) = (r.inputs[0], r.outputs[0]);
        let rows = &self.matrix.rows;
        let ends = rows.iter().scan(0, |end, row| {
            *end += row.len() as i32;
            Some(*end)
        });
        let starts = r.table(&[0].into_iter().chain(ends).collect::<Vec<i32>>())?;
        // A table is never empty, a matrix may be.
        let entries: Vec<(usize, f32)> = rows.iter().flatten().copied().chain([(0, 0.0)]).collect();
        let index = r.table(&entries.iter().map(|e| e.0 as i32).collect::<Vec<_>>())?;
        let weight = r.table(&entries.iter().map(|e| e.1).collect::<Vec<_>>())?;
        let params = kernels::SparseProductParams {
            y: y.into(),
            x: x.into(),
            starts: starts.into(),
            index: index.into(),
            weight: weight.into(),
            rows: rows.len(),
            columns: self.matrix.inputs,
        };
        r.each(kernels::SPARSE_PRODUCT, rows.len(), y.shape.n, params);
        Ok(())
    }
}
