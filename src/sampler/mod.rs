//! Samplers: one file per method over one posterior.

pub mod dmap;
pub mod dps;
pub mod dsg;
pub mod freedom;
pub mod lgd;
pub mod measurement;
mod measurement_file;
pub mod p2l;
pub mod posterior;
pub mod psld;
pub mod resample;
pub mod restorer;
pub mod schedule;
pub mod single;
pub mod stsl;
pub mod unconditional;
pub mod whitening;

pub use measurement::{Measurement, Measurer, Noise};
pub use measurement_file::MeasurementFile;
pub use posterior::Setup;
pub use restorer::{Item, Progress, Restoration, Restorer, Run};
pub use schedule::{Schedule, Spacing, Variance};

use crate::error::{Error, Result, nearest};
use crate::executor::Executor;
use crate::graph::Graph;
use crate::model::Prior;
use crate::operator::Operator;

/// How far a step goes along the gradient g of the residual norm.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Zeta {
    /// Towards the noise's norm by Polyak's step, at most `zeta radius` far: a share of the radius sqrt(numel) * s of the
    /// sphere that p(x_{t-1} | x_t) lives on.
    Relative(f64),
    /// `zeta g`, as published: in VP coordinates for DPS in pixel space, in sigma space for DMAP and for latent models.
    Absolute(f64),
}

/// What a sampler can be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The method.
    pub method: Method,
    /// Noise levels visited.
    pub steps: usize,
    /// Step size along the gradient.
    pub zeta: Zeta,
    /// Deviation of the images, in [-1, 1], in the covariance that the residual of a blur is measured by ([`whitening`]). 0: by the
    /// plain norm, as published, which steps of absolute zeta always take.
    pub whiten: f64,
    /// K: ascent steps per noise level of DMAP, samples of the estimate of LGD, passes at a
    /// repeated level of FreeDoM, descents per level of STSL, optimisation steps of ReSample at most, moves of the text of P2L.
    pub inner: usize,
    /// Weight of the second term of PSLD's and STSL's objectives.
    pub consistency: f64,
    /// Rate of the optimisation in ReSample (of codes, per step) and P2L (of the text).
    pub rate: f64,
    /// PSLD's adjoint is what the published code has in its place.
    pub published_transpose: bool,
    /// Variance of the ancestral step.
    pub variance: Variance,
    /// Which noise levels are visited.
    pub spacing: Spacing,
    /// Share of the posterior's noise that a step adds: 1 is ancestral sampling, 0 DDIM.
    pub eta: f64,
    /// Limit x0 to [-1, 1]; the gradient is 0 where it is limited. Of pixel models only.
    pub clip: bool,
}

/// A method of sampling.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Diffusion posterior sampling (Chung et al. 2023).
    Dps,
    /// Explicit posterior ascent on a sphere (Xu et al. 2025).
    Dmap,
    /// Steps turned towards the steepest descent on a sphere (Yang et al. 2024).
    Dsg,
    /// DPS on Monte Carlo samples of x_0 (Song et al. 2023).
    Lgd,
    /// DPS with time travel (Yu et al. 2023).
    Freedom,
    /// DPS whose codes agree with decoder and encoder (Rout et al. 2023).
    Psld,
    /// Descents of residual and score's trace before every step (Rout et al. 2024).
    Stsl,
    /// DPS with optimised codes (Song et al. 2024).
    Resample,
    /// DPS with a tuned text (Chung et al. 2024).
    P2l,
    /// The prior alone.
    Unconditional,
}

/// A part of [`Settings`] that not every method reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Setting {
    /// [`Settings::zeta`]
    Zeta,
    /// [`Settings::whiten`]
    Whiten,
    /// [`Settings::inner`]
    Inner,
    /// [`Settings::rate`]
    Rate,
    /// [`Settings::consistency`]
    Consistency,
    /// [`Settings::published_transpose`]
    PublishedTranspose,
}

type Build = fn(&Setup<'_>) -> Result<Box<dyn Sampler>>;

/// One row per method: name, what it does, default settings, how it is made, its largest step graph.
pub struct MethodRow {
    /// The method.
    pub method: Method,
    /// Name on the command line.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// Steps, zeta and inner steps that the benchmark was tuned with, on pixel models.
    pub defaults: (usize, Zeta, usize),
    /// What it reads of the settings that not every method reads.
    pub reads: &'static [Setting],
    /// Makes the sampler.
    pub build: Build,
    /// Records the graph of a step without a device.
    pub graph: fn(&Setup<'_>) -> Result<Graph>,
}

/// All methods.
pub const METHODS: &[MethodRow] = &[
    MethodRow {
        method: Method::Dmap,
        name: "dmap",
        what: "explicit posterior ascent: K projected gradient steps per noise level",
        defaults: (6, Zeta::Relative(0.4), 5),
        reads: &[Setting::Zeta, Setting::Whiten, Setting::Inner],
        build: dmap::build,
        graph: |s| Ok(dmap::inner_graph(s)?.0),
    },
    MethodRow {
        method: Method::Dps,
        name: "dps",
        what: "diffusion posterior sampling: one gradient step per noise level",
        defaults: (28, Zeta::Relative(0.3), 1),
        reads: &[Setting::Zeta, Setting::Whiten],
        build: dps::build,
        graph: |s| Ok(dps::step_graph(s)?.marked().graph),
    },
    MethodRow {
        method: Method::Dsg,
        name: "dsg",
        what: "steps turned towards the steepest descent on the sphere of the noise",
        defaults: (28, Zeta::Relative(0.2), 1),
        reads: &[Setting::Zeta, Setting::Whiten],
        build: dsg::build,
        graph: |s| Ok(dsg::step_graph(s)?.marked().graph),
    },
    MethodRow {
        method: Method::Lgd,
        name: "lgd",
        what: "DPS on K Monte Carlo samples of the clean image",
        defaults: (28, Zeta::Relative(0.3), 3),
        reads: &[Setting::Zeta, Setting::Whiten, Setting::Inner],
        build: lgd::build,
        graph: |s| Ok(lgd::step_graph(s)?.marked().graph),
    },
    MethodRow {
        method: Method::Freedom,
        name: "freedom",
        what: "DPS with time travel: K passes at the levels in the middle",
        defaults: (20, Zeta::Relative(0.3), 2),
        reads: &[Setting::Zeta, Setting::Whiten, Setting::Inner],
        build: freedom::build,
        graph: |s| Ok(dps::step_graph(s)?.marked().graph),
    },
    MethodRow {
        method: Method::Psld,
        name: "psld",
        what: "DPS whose codes agree with decoder and encoder; of latent models",
        defaults: (28, Zeta::Relative(0.3), 1),
        reads: &[Setting::Zeta, Setting::Whiten, Setting::Consistency, Setting::PublishedTranspose],
        build: psld::build,
        graph: |s| Ok(psld::step_graph(s)?.marked().graph),
    },
    MethodRow {
        method: Method::Stsl,
        name: "stsl",
        what: "K descents of residual and score's trace before every ancestral step",
        defaults: (10, Zeta::Relative(0.3), 5),
        reads: &[Setting::Zeta, Setting::Whiten, Setting::Inner, Setting::Consistency],
        build: stsl::build,
        graph: |s| Ok(stsl::inner_graph(s)?.marked().graph),
    },
    MethodRow {
        method: Method::Resample,
        name: "resample",
        what: "DPS, and at some levels codes optimised to fit the measurement",
        defaults: (28, Zeta::Relative(0.3), 50),
        reads: &[Setting::Zeta, Setting::Whiten, Setting::Inner, Setting::Rate],
        build: resample::build,
        graph: |s| Ok(dps::step_graph(s)?.marked().graph),
    },
    MethodRow {
        method: Method::P2l,
        name: "p2l",
        what: "DPS with a text that is tuned to the measurement; of latent models",
        defaults: (28, Zeta::Relative(0.3), 3),
        reads: &[Setting::Zeta, Setting::Whiten, Setting::Inner, Setting::Rate],
        build: p2l::build,
        graph: |s| Ok(p2l::text_graph(s)?.marked().graph),
    },
    MethodRow {
        method: Method::Unconditional,
        name: "unconditional",
        what: "samples of the prior; the measurement is not used",
        defaults: (100, Zeta::Absolute(0.0), 0),
        reads: &[],
        build: unconditional::build,
        graph: |s| Ok(unconditional::step_graph(s)?.marked().graph),
    },
];

impl Method {
    /// The method's row.
    pub fn row(self) -> &'static MethodRow {
        METHODS.iter().find(|m| m.method == self).expect("every method has a row")
    }

    /// True if the method reads a setting.
    pub fn reads(self, setting: Setting) -> bool {
        self.row().reads.contains(&setting)
    }

    /// The method called `name`; an unknown name gets the nearest suggestion.
    pub fn parse(name: &str) -> Result<Method> {
        if let Some(row) = METHODS.iter().find(|m| m.name == name) {
            return Ok(row.method);
        }
        let nearest = nearest(name, METHODS.iter().map(|m| m.name)).unwrap_or_default();
        Err(Error::Invalid(format!("unknown method {name}: did you mean {nearest}?")))
    }

    /// The settings that are best for a kind of model.
    pub fn defaults_for(self, prior: &Prior) -> Settings {
        let steps = match (self, &prior.latent) {
            (Method::Dmap, Some(_)) => LATENT_DMAP_STEPS,
            _ => self.row().defaults.0,
        };
        Settings { steps, ..self.defaults() }
    }

    /// The settings that the benchmark was tuned with, on pixel models.
    pub fn defaults(self) -> Settings {
        let (steps, zeta, inner) = self.row().defaults;
        Settings {
            method: self,
            steps,
            zeta,
            whiten: WHITEN,
            inner,
            variance: Variance::default(),
            spacing: Spacing::default(),
            eta: 1.0,
            clip: true,
            consistency: 0.1,
            rate: if self == Method::P2l { 1e-5 } else { 5e-3 },
            published_transpose: false,
        }
    }
}

/// From 0.15 to 0.4 the benchmark changes by 0.1 dB; beyond 0.5 the few steps of a level no longer come to their end.
pub const WHITEN: f64 = 0.3;

/// Levels of DMAP for latent models. With the six of pixel models the codes end far from the measurement; ten are better by 1 dB in random
/// inpainting and 0.3 dB in super-resolution (weights/tiny-latent).
const LATENT_DMAP_STEPS: usize = 10;

impl Settings {
    /// [`Settings::whiten`] where it is used.
    pub fn whitening(&self, operator: &dyn Operator) -> Option<f64> {
        let relative = matches!(self.zeta, Zeta::Relative(_));
        (operator.is_blur() && relative && self.whiten > 0.0).then_some(self.whiten)
    }

    /// Fails on values that can't work.
    pub fn check(&self) -> Result<()> {
        let (Zeta::Relative(zeta) | Zeta::Absolute(zeta)) = self.zeta;
        if !zeta.is_finite() || zeta < 0.0 {
            return Err(Error::Invalid(format!("zeta is {zeta}; it must be 0 or more")));
        }
        if self.method == Method::Dsg && !matches!(self.zeta, Zeta::Relative(0.0..=1.0)) {
            return Err(Error::Invalid("dsg takes zeta as a share of 0 to 1: --zeta-unit relative".into()));
        }
        if !self.whiten.is_finite() || self.whiten < 0.0 {
            return Err(Error::Invalid(format!("whiten is {}; it must be 0 (off) or more", self.whiten)));
        }
        if self.steps == 0 {
            return Err(Error::Invalid("0 steps: choose at least 1".into()));
        }
        if !(0.0..=1.0).contains(&self.eta) {
            return Err(Error::Invalid(format!("eta is {}; it must be 0 (DDIM) to 1 (ancestral)", self.eta)));
        }
        if self.eta != 1.0 && self.variance != Variance::FixedSmall {
            return Err(Error::Invalid("eta below 1 is a share of the fixed small variance: choose that one".into()));
        }
        if self.method == Method::Dmap && self.eta == 0.0 {
            return Err(Error::Invalid("dmap moves within the noise of a step; with eta 0 there is none".into()));
        }
        if self.inner == 0 && self.method.reads(Setting::Inner) {
            return Err(Error::Invalid("0 inner steps would ignore the measurement: choose at least 1".into()));
        }
        if !self.rate.is_finite() || self.rate <= 0.0 {
            return Err(Error::Invalid(format!("rate is {}; it must be positive", self.rate)));
        }
        if !self.consistency.is_finite() || self.consistency < 0.0 {
            return Err(Error::Invalid(format!("consistency is {}; it must be 0 or more", self.consistency)));
        }
        Ok(())
    }

    /// Fails on a method or variance that this model can't serve.
    pub fn check_model(&self, prior: &Prior) -> Result<()> {
        if prior.latent.is_none() && matches!(self.method, Method::Psld | Method::P2l) {
            let name = self.method.row().name;
            return Err(Error::Invalid(format!("{name} needs a latent model: a pixel model has no codes and no text")));
        }
        if self.variance == Variance::LearnedRange && !prior.learn_sigma {
            return Err(Error::Invalid("this model did not learn its variance: use fixed-small or fixed-large".into()));
        }
        Ok(())
    }

    /// Network passes of one image: forward evaluations plus VJPs.
    pub fn network_passes(&self) -> usize {
        match self.method {
            Method::Dps | Method::Dsg | Method::Lgd | Method::Psld => 2 * self.steps,
            Method::Stsl => self.steps * (4 * self.inner + 1),
            Method::Resample => {
                2 * self.steps + (0..self.steps).filter(|&i| resample::optimises(i, self.steps)).count()
            }
            Method::P2l => {
                let moves = (0..self.steps).filter(|&i| p2l::moves_text(i, self.steps)).count();
                2 * (self.steps + moves * self.inner)
            }
            Method::Freedom => (0..self.steps).map(|i| 2 * freedom::passes(i, self.steps, self.inner)).sum(),
            Method::Dmap => self.steps + 2 * self.inner * (self.steps - 1),
            Method::Unconditional => self.steps,
        }
    }
}

/// A batch on the host.
pub struct Chain {
    /// x_T, and later whatever x was last asked for, in VP coordinates, (n, h, w, c).
    pub x: Vec<f32>,
    /// Measurements, one after the other.
    pub y: Vec<f32>,
    /// Operator states, one after the other.
    pub state: Vec<f32>,
    /// Weights of a whitened residual, one measurement after the other.
    pub whitening: Vec<f32>,
    /// Class labels of a conditional model.
    pub labels: Vec<f32>,
    /// Seed and sample number of each item.
    pub seeds: Vec<(u64, u32)>,
    /// Norm of the noise in each measurement, 0 where unknown.
    pub noise_norm: Vec<f32>,
    /// Residual norm of each item at the last gradient.
    pub residual: Vec<f32>,
}

/// One method, ready to step.
pub trait Sampler: Send {
    /// Takes a batch over to the device: x_T, measurements, labels. x stays there from step to step.
    fn begin(&mut self, chain: &Chain) -> Result<()>;
    /// From level `i` to the level before it. Leaves the residuals in `chain`.
    fn step(&mut self, i: usize, chain: &mut Chain) -> Result<()>;
    /// x as the last step left it.
    fn read_x(&self, x: &mut [f32]) -> Result<()>;
    /// What runs.
    fn executors(&self) -> Vec<&Executor>;
    /// Fills the arena with NaN before each run from now on.
    fn set_poison(&mut self, on: bool);
}
