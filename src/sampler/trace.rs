//! What a traced run keeps of each step, for reports.

use crate::error::Result;
use crate::executor::Executor;
use crate::graph::TensorId;

/// Outputs of a traced phase that reports show.
#[derive(Default)]
pub(super) struct Traced {
    /// The first estimate of the clean x.
    pub estimate: Option<TensorId>,
    /// The norm of each step against the gradient, (n, 1, 1, 1), and its number of values per item.
    pub descents: Vec<(TensorId, usize)>,
}

/// What a traced run keeps of its last step. Lengths are the root mean square over the values of x,
/// in VP coordinates, one per item.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The first estimate of the clean x at this step, (n, h, w, c) of the canvas, by Tweedie's
    /// formula. Empty if the method makes none.
    pub estimate: Vec<f32>,
    /// Length of the steps against the gradient, the mean of those at this step. Empty if the
    /// method takes none.
    pub descent: Vec<f32>,
    /// Length of the change of x from the last step's end to this one's.
    pub change: Vec<f32>,
    /// Number of steps against the gradient in `descent`.
    descents: usize,
}

impl Trace {
    /// Forgets the last step.
    pub(super) fn begin_step(&mut self) {
        *self = Trace::default();
    }

    /// Reads what a phase has left on the device, before another phase overwrites it.
    pub(super) fn read(&mut self, traced: &Traced, e: &Executor) -> Result<()> {
        if let Some(x0) = traced.estimate.filter(|_| self.estimate.is_empty()) {
            self.estimate = e.read(x0)?;
        }
        for &(length, values) in &traced.descents {
            let lengths = e.read(length)?;
            self.descent.resize(lengths.len(), 0.0);
            let (before, count) = (self.descents as f32, (self.descents + 1) as f32);
            for (mean, length) in self.descent.iter_mut().zip(lengths) {
                *mean = (*mean * before + length / (values as f32).sqrt()) / count;
            }
            self.descents += 1;
        }
        Ok(())
    }

    /// Measures how far x went from `before` to `after`, batches with `item` values per item.
    pub(super) fn measure_change(&mut self, before: &[f32], after: &[f32], item: usize) {
        let of_item = |(a, b): (&[f32], &[f32])| {
            let squares: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            (squares / item as f64).sqrt() as f32
        };
        self.change = before.chunks(item).zip(after.chunks(item)).map(of_item).collect();
    }
}
