//! `y[n] = sum over k of coefficient[n, column_k] x_k[n]`: for example Tweedie's formula, the
//! ancestral step and the DPS update
//!
//! VJP: `dx_k[n] = coefficient[n, column_k] dy[n]`. Coefficients come from the noise schedule and
//! have no gradient.

use super::prelude::*;
use crate::backend::cpu::parallel::for_item_chunks;
use crate::graph::record::{Graph, TensorId};

/// The combination. Inputs: coefficients (n, 1, 1, any), then x_0, x_1, ... of one shape.
#[derive(Debug, Clone)]
pub struct LinearCombination {
    /// For each x, the column of its coefficient.
    pub columns: Vec<usize>,
}

/// Largest number of summands.
const MOST: usize = 4;

impl Op for LinearCombination {
    fn name(&self) -> &'static str {
        "linear_combination"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1 + self.columns.len())?;
        if self.columns.len() > MOST {
            return Err(format!("{} summands, the kernel takes up to {MOST}: add in two nodes", self.columns.len()));
        }
        let x = inputs[1].shape;
        for other in &inputs[2..] {
            expect_shape(other, x)?;
        }
        expect_shape(inputs[0], Shape::rows(x.n, inputs[0].shape.c))?;
        if let Some(k) = self.columns.iter().find(|&&k| k >= inputs[0].shape.c) {
            return Err(format!("column {k} of {} coefficients", inputs[0].shape.c));
        }
        Ok(vec![single("", x)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..1, "coefficients come from the schedule")?;
        let (dout, coefficients, name) = (r.dout(0)?, r.input(0), r.name());
        for (k, &column) in self.columns.iter().enumerate() {
            if r.wants(k + 1) {
                let op = LinearCombination { columns: vec![column] };
                let dx = r.graph.one(op, &name, &[coefficients, dout])?;
                r.give(k + 1, dx);
            }
        }
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        2 * (self.columns.len() * inputs[1].numel()) as u64
    }
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(1, 0), (2, 0), (3, 0)]
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (item, width) = (launch.input_shapes[1].item(), launch.input_shapes[0].c);
        let c = launch.inputs[0];
        let own = launch.in_place.map(|i| i - 1);
        let xs: Vec<_> = self.columns.iter().enumerate().map(|(k, &column)| (k, column)).collect();
        let inputs = &launch.inputs;
        for_item_chunks(launch.outputs[0], item, |n, at, out| {
            let coefficient = |column: usize| c[n * width + column];
            // In place, the output already holds one of the terms, which is scaled first. Otherwise
            // the first term overwrites the output.
            let start = own.unwrap_or(0);
            let first = coefficient(self.columns[start]);
            match own {
                Some(_) => out.iter_mut().for_each(|o| *o *= first),
                None => {
                    out.iter_mut().zip(&inputs[1][n * item + at..]).for_each(|(o, x)| *o = first * x);
                }
            }
            for &(k, column) in xs.iter().filter(|(k, _)| *k != start) {
                let f = coefficient(column);
                out.iter_mut().zip(&inputs[k + 1][n * item + at..]).for_each(|(o, x)| *o += f * x);
            }
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (c, y) = (r.inputs[0], r.outputs[0]);
        let item = y.shape.item();
        let params = kernels::LinearCombinationParams {
            y: y.into(),
            x: [1, 2, 3, 4].map(|k| r.inputs.get(k).copied().into()),
            coefficients: c.into(),
            item,
            width: c.shape.c,
            column: [0, 1, 2, 3].map(|k| self.columns.get(k).copied().unwrap_or(0)),
        };
        r.each(
            Kernel::named(&format!("linear_combination_{}", self.columns.len())),
            item.div_ceil(4),
            y.shape.n,
            params,
        );
        Ok(())
    }
}

impl Graph {
    /// `sum of coefficients[:, column] * x` over (column, x).
    pub fn combine(&mut self, name: &str, coefficients: TensorId, terms: &[(usize, TensorId)]) -> Result<TensorId> {
        let columns = terms.iter().map(|t| t.0).collect();
        let inputs: Vec<_> = std::iter::once(coefficients).chain(terms.iter().map(|t| t.1)).collect();
        self.one(LinearCombination { columns }, name, &inputs)
    }
}
