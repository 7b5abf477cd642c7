//! Settings that all sampling methods share.

use super::method::{self, Conditioned, Method};
use super::methods::parse_method;
use super::schedule::{Schedule, Spacing, Variance, check_steps};
use super::setup::Setup;
use super::whitening;
use crate::backend::Device;
use crate::error::{Error, Result};
use crate::graph::PlanOptions;
use crate::model::{Model, Prior};
use crate::operator::{Operator, parse_task};
use crate::tensor::Shape;
use std::sync::Arc;

/// Side of the image on which passes are counted: every model takes it.
const COUNTED_SIDE: usize = 64;

/// Settings that all sampling methods share.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// The method with its options.
    pub method: Arc<dyn Method>,
    /// Number of noise levels.
    pub steps: usize,
    /// Variance of the ancestral step.
    pub variance: Variance,
    /// Which noise levels are visited.
    pub spacing: Spacing,
    /// Noise that a step adds, as a share of the posterior's standard deviation: 1 is ancestral
    /// sampling, 0 is DDIM.
    pub eta: f64,
    /// If true, the estimate of x_0 is clamped to [-1, 1], with gradient 0 where it is clamped.
    /// Ignored for latent models.
    pub clip: bool,
    /// If true, a run keeps estimates and lengths of steps for reports (see
    /// [`Progress::trace`](super::Progress::trace)). They take some memory and a copy from the
    /// device per step; the restored image is the same.
    pub traced: bool,
}

impl Settings {
    /// A method at `steps` noise levels.
    pub fn new(method: Arc<dyn Method>, steps: usize) -> Settings {
        let (variance, spacing) = (Variance::default(), Spacing::default());
        Settings { method, steps, variance, spacing, eta: 1.0, clip: true, traced: false }
    }

    /// The same at `steps` noise levels.
    pub fn steps(self, steps: usize) -> Settings {
        Settings { steps, ..self }
    }

    /// The same with this variance of the ancestral step.
    pub fn variance(self, variance: Variance) -> Settings {
        Settings { variance, ..self }
    }

    /// The same with this spacing of the noise levels.
    pub fn spacing(self, spacing: Spacing) -> Settings {
        Settings { spacing, ..self }
    }

    /// The same with this `eta`: 1 is ancestral sampling, 0 is DDIM.
    pub fn eta(self, eta: f64) -> Settings {
        Settings { eta, ..self }
    }

    /// The same with the estimate of x_0 clamped to [-1, 1], or not.
    pub fn clip(self, clip: bool) -> Settings {
        Settings { clip, ..self }
    }

    /// The same with what a report shows of each step kept, or not.
    pub fn traced(self, traced: bool) -> Settings {
        Settings { traced, ..self }
    }

    /// Settings for a method such as `dmap` or `dps:step=polyak:0.3`, with the number of noise
    /// levels that it was tuned for on this kind of model. Fails on an unknown method or option.
    pub fn parse(method: &str, prior: &Prior) -> Result<Settings> {
        let (row, method) = parse_method(method)?;
        Ok(Settings::new(method, if prior.latent.is_some() { row.latent_steps } else { row.steps }))
    }

    /// DMAP as its authors run it: three ascent steps at each of 500 levels of an ancestral sampler,
    /// with a step size of 0.6 for blurs and of 4.8 else (their notes give these two).
    pub fn paper(prior: &Prior, operator: &dyn Operator) -> Result<Settings> {
        let zeta = if whitening::spectrum(operator).is_some() { 0.6 } else { 4.8 };
        let settings = Settings::parse(&format!("dmap:k=3,step=published:{zeta}"), prior)?;
        Ok(settings.steps(500).spacing(Spacing::Linspace))
    }

    /// Network passes of one image: forward evaluations plus VJPs. Neither the task nor the size of
    /// the image changes them. Fails where the settings do not fit the model.
    pub fn passes(&self, model: &Model) -> Result<usize> {
        let image = Shape::new(1, COUNTED_SIDE, COUNTED_SIDE, model.network.prior().image_channels());
        let (operator, cpu) = (parse_task("denoise")?, Device::cpu());
        let setup = self.setup(model, operator.as_ref(), image, PlanOptions::default(), &cpu)?;
        let method = self.method.as_ref();
        method::network_passes(method, &mut method::rehearse(method, &setup)?)
    }

    /// The same with as many noise levels as this number of network passes allows, but not more
    /// than serve the method ([`Method::most_levels`]). Fails if it allows not even one level.
    pub fn within(self, passes: usize, model: &Model) -> Result<Settings> {
        let total = model.network.prior().diffusion_steps;
        let most = self.method.most_levels().map_or(total, |levels| levels.min(total));
        let cost = |steps| self.clone().steps(steps).passes(model);
        let per_level = cost(self.steps)? as f64 / self.steps as f64;
        let mut steps = ((passes as f64 / per_level) as usize).clamp(1, most);
        while steps < most && cost(steps + 1)? <= passes {
            steps += 1;
        }
        while cost(steps)? > passes {
            if steps == 1 {
                let (called, one) = (method::name(self.method.as_ref()), cost(1)?);
                return Err(Error::Invalid(format!(
                    "one noise level of {called} takes {one} network passes, more than {passes}; allow as many, or choose a \
                     method that takes fewer, such as dpir"
                )));
            }
            steps -= 1;
        }
        Ok(self.steps(steps))
    }

    /// Collects everything that the graphs of these settings depend on. Fails where
    /// [`Settings::check`] fails, and if network and codec describe different latents.
    pub fn setup<'a>(
        &self,
        model: &'a Model,
        operator: &'a dyn Operator,
        image: Shape,
        plan: PlanOptions,
        device: &'a Device,
    ) -> Result<Setup<'a>> {
        let prior = model.network.prior();
        let latent = model.network.codec().map(|codec| codec.latent());
        if prior.latent != latent {
            let found = prior.latent;
            return Err(Error::Invalid(format!(
                "the network's prior says {found:?} of its latents, its codec {latent:?}"
            )));
        }
        self.check_conditioned(model)?;
        Ok(Setup {
            network: model.network.as_ref(),
            weights: &model.weights,
            operator,
            image,
            schedule: self.check(&prior, operator)?,
            prior,
            variance: self.variance,
            clip: self.clip,
            traced: self.traced,
            plan,
            device,
        })
    }

    /// Fails if the model has a conditional score estimator and the method takes none, or if the
    /// method needs one and the model has none.
    pub fn check_conditioned(&self, model: &Model) -> Result<()> {
        let method = self.method.as_ref();
        match (method.conditioned(), model.network.condition()) {
            (Conditioned::Never, Some(_)) => Err(Error::Invalid(format!(
                "{} takes no conditional score estimator: leave --cse out, or choose cse, dmap, dps or dsg",
                method::name(method)
            ))),
            (Conditioned::Always, None) => Err(Error::Invalid(format!(
                "{} needs a conditional score estimator: give one with --cse",
                method.method()
            ))),
            _ => Ok(()),
        }
    }

    /// Checks the settings by themselves and against this model and operator. Gives the schedule.
    pub fn check(&self, prior: &Prior, operator: &dyn Operator) -> Result<Schedule> {
        if !(0.0..=1.0).contains(&self.eta) {
            return Err(Error::Invalid(format!("eta is {}; it must be 0 (DDIM) to 1 (ancestral)", self.eta)));
        }
        if self.eta != 1.0 && self.variance != Variance::FixedSmall {
            return Err(Error::Invalid("eta below 1 is a share of the fixed small variance: choose that one".into()));
        }
        if self.variance == Variance::LearnedRange && !prior.learn_sigma {
            return Err(Error::Invalid("this model did not learn its variance: use fixed-small or fixed-large".into()));
        }
        let called = method::name(self.method.as_ref());
        if !self.method.reads_variance() && (self.eta != 1.0 || self.variance != Variance::default()) {
            return Err(Error::Invalid(format!(
                "{called} has no use for the sampler's eta and variance: leave them out"
            )));
        }
        let (training, total) = (prior.noise_schedule, prior.diffusion_steps);
        check_steps(self.steps, total)?;
        let full = Schedule::new(training, total, total, Spacing::Linear)?;
        let sigmas = self.method.sigmas(self.steps, full.sigma(total - 1));
        if sigmas.is_some() && self.spacing != Spacing::default() {
            return Err(Error::Invalid(format!("{called} chooses its levels itself: leave the spacing out")));
        }
        let schedule = match sigmas {
            Some(sigmas) => Schedule::of_sigmas(training, total, &sigmas)?,
            None => Schedule::new(training, total, self.steps, self.spacing)?,
        };
        let schedule = Schedule { eta: self.eta, ..schedule };
        self.method.check(prior, operator, &schedule)?;
        Ok(schedule)
    }
}
