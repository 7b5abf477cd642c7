//! Samplers: one file per method over one posterior.

pub mod chain;
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
pub mod settings;
pub mod single;
pub mod stsl;
pub mod unconditional;
pub mod whitening;

pub use chain::{Chain, Sampler};
pub use measurement::{Measurement, Measurer, Noise};
pub use measurement_file::MeasurementFile;
pub use posterior::Setup;
pub use restorer::{Item, Progress, Restoration, Restorer, Run};
pub use schedule::{Schedule, Spacing, Variance};
pub use settings::{Method, Setting, Settings, WHITEN, Zeta};

use crate::error::{Error, Result, nearest};
use crate::graph::Graph;
use crate::model::Prior;
use crate::operator::Operator;

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
