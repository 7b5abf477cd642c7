//! A recorded phase of a method, and the inputs that are written before it runs.

use super::batch::Batch;
use super::level::Moment;
use super::trace::Traced;
use crate::error::Result;
use crate::executor::Executor;
use crate::graph::{Graph, TensorId};
use crate::noise::Draw;

type OfMoment = dyn Fn(&Moment) -> f64 + Send + Sync;
type OfNoise = dyn Fn(&Moment, f64) -> f64 + Send + Sync;

/// The source of the values of a [`Scalar`](super::step::Scalar).
pub(super) enum Column {
    /// A function of the moment.
    Of(Box<OfMoment>),
    /// A function of the moment and of the standard deviation of the noise in each item's
    /// measurement.
    OfNoise(Box<OfNoise>),
    /// The norm of the noise in each item's measurement.
    NoiseNorm,
    /// The first number for frozen items, the second for the others.
    Frozen(f64, f64),
}

/// Largest number of scalars of a phase. Recording more is an error. An unused column costs four
/// bytes per item.
pub(super) const COLUMNS: usize = 32;

/// A state as one phase uses it.
pub(super) struct StateUse {
    pub name: &'static str,
    /// The input that holds it before a run, if the phase reads it.
    pub input: Option<TensorId>,
    /// Its value after a run, if the phase sets it.
    pub next: Option<TensorId>,
    /// Its values at the start of a batch; none means zeros.
    pub start: Option<Vec<f32>>,
}

/// Inputs that hold the measurement.
pub(super) struct MeasurementInputs {
    pub y: TensorId,
    pub state: Option<TensorId>,
    /// Weights of the whitened residual, one per frequency, and the prior standard deviation that
    /// they are computed from.
    pub whitening: Option<(TensorId, f64)>,
    /// Squared singular values of an operator with a state, one per coefficient of its spectrum.
    pub power: Option<TensorId>,
}

/// A recorded phase of a method: its graph, and the meaning of the graph's inputs and outputs.
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// The graph that it runs.
    pub graph: Graph,
    /// Network passes of one run: forward evaluations and VJPs.
    pub passes: usize,
    pub(super) states: Vec<StateUse>,
    pub(super) reported: Option<TensorId>,
    pub(super) outputs: Vec<(&'static str, TensorId)>,
    pub(super) traced: Traced,
    pub(super) t: TensorId,
    pub(super) labels: Option<TensorId>,
    pub(super) condition: Option<TensorId>,
    pub(super) coefficients: TensorId,
    pub(super) columns: Vec<Column>,
    pub(super) keys: Vec<(TensorId, Draw)>,
    pub(super) measurement: Option<MeasurementInputs>,
    pub(super) items: usize,
}

impl Phase {
    /// The prior standard deviation that whitens its residual; none for the plain norm.
    pub(super) fn whitening(&self) -> Option<f64> {
        self.measurement.as_ref().and_then(|m| m.whitening).map(|w| w.1)
    }

    /// True if it reads the squared singular values of an operator with a state.
    pub(super) fn reads_power(&self) -> bool {
        self.measurement.as_ref().is_some_and(|m| m.power.is_some())
    }

    /// True if it reads the condition image of a conditional score estimator.
    pub fn reads_condition(&self) -> bool {
        self.condition.is_some()
    }

    /// Writes the inputs that stay the same for all steps of a batch: labels, condition image and
    /// measurement.
    pub fn write_batch(&self, e: &mut Executor, batch: &Batch) -> Result<()> {
        if let Some(id) = self.labels {
            e.write(id, &batch.labels)?;
        }
        if let Some(id) = self.condition {
            e.write(id, &batch.condition)?;
        }
        let Some(m) = &self.measurement else { return Ok(()) };
        e.write(m.y, &batch.y)?;
        if let Some(state) = m.state {
            e.write(state, &batch.state)?;
        }
        if let Some((weights, _)) = m.whitening {
            e.write(weights, &batch.whitening)?;
        }
        if let Some(power) = m.power {
            e.write(power, &batch.power)?;
        }
        Ok(())
    }

    /// Writes the timesteps, the scalars and the noise keys. `written` holds the scalars and the
    /// timestep that were written last; they are written again only if they have changed.
    pub fn write_moment(&self, e: &mut Executor, moment: &Moment, batch: &Batch, written: &mut Vec<f32>) -> Result<()> {
        let mut coefficients = vec![0.0; COLUMNS * self.items];
        for (k, column) in self.columns.iter().enumerate() {
            for (n, row) in coefficients.chunks_mut(COLUMNS).enumerate() {
                row[k] = match column {
                    Column::Of(value) => value(moment) as f32,
                    Column::OfNoise(value) => value(moment, batch.noise_sigma[n]) as f32,
                    Column::NoiseNorm => batch.noise_norm[n],
                    Column::Frozen(frozen, moving) => (if batch.is_frozen[n] { *frozen } else { *moving }) as f32,
                };
            }
        }
        coefficients.push(moment.at.timestep as f32);
        if coefficients != *written {
            *written = coefficients;
            e.write(self.t, &vec![moment.at.timestep as f32; self.items])?;
            e.write(self.coefficients, &written[..COLUMNS * self.items])?;
        }
        let round = moment.round as u32;
        self.keys.iter().try_for_each(|&(id, draw)| e.write(id, &batch.keys(moment.level.index, draw.round(round))))
    }
}
