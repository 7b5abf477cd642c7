//! Restores batches of images, either in one call with a progress callback or step by step.

use crate::backend::Device;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::graph::{Graph, Plan, PlanOptions};
use crate::model::Model;
use crate::noise::{Draw, NoiseKey, fill_normal};
use crate::operator::{Operator, baseline_on_canvas};
use crate::sampler::batch::Batch;
use crate::sampler::chain::Machine;
use crate::sampler::condition::check_condition;
use crate::sampler::measurement::{Measurement, Measurer};
use crate::sampler::method::{self, Start};
use crate::sampler::phases::Phases;
use crate::sampler::progress::{Decoder, Progress};
use crate::sampler::settings::Settings;
use crate::sampler::step::spectral::power;
use crate::sampler::trace::Trace;
use crate::sampler::whitening::weights;
use crate::tensor::{Dtype, Shape};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

pub mod run;

/// One image to restore.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Item {
    /// Its measurement.
    pub measurement: Measurement,
    /// The user's seed.
    pub seed: u64,
    /// Number of this sample, which tells samples of the same measurement apart.
    pub sample: u32,
    /// Class label, for a class-conditional model; none is class 0.
    pub label: Option<u32>,
}

impl Item {
    /// The first sample (number 0) of a measurement, without a class label.
    pub fn new(measurement: Measurement, seed: u64) -> Item {
        Item { measurement, seed, sample: 0, label: None }
    }

    /// Another sample of the same measurement.
    pub fn sample(self, sample: u32) -> Item {
        Item { sample, ..self }
    }

    /// The same with this class label, for a class-conditional model.
    pub fn label(self, label: impl Into<Option<u32>>) -> Item {
        Item { label: label.into(), ..self }
    }
}

/// Largest sound |x|. In VP coordinates x has standard deviation 1. Beyond this, guidance steps
/// were too long, and the error says so.
const RUN_AWAY: f32 = 100.0;

/// A model, an operator and a sampler, planned and allocated on a device for batches of one size.
pub struct Restorer {
    machine: Machine,
    measurer: Measurer,
    image: Shape,
    canvas: Shape,
    operator: Arc<dyn Operator>,
    state_item: usize,
    class_cond: Option<usize>,
    settings: Settings,
    start: f32,
    picture: Shape,
    decoder: Option<Mutex<Decoder>>,
    device: Device,
    storage: Dtype,
}

impl Restorer {
    /// Plans and allocates for batches of up to `image.n` images of `image.h` x `image.w` pixels.
    /// Fails if the operator, the model or the settings do not accept such images.
    pub fn new(
        model: &Model,
        operator: &Arc<dyn Operator>,
        settings: &Settings,
        image: Shape,
        plan: PlanOptions,
        device: &Device,
    ) -> Result<Restorer> {
        operator.check(image)?;
        let prior = model.network.prior();
        if image.c != prior.image_channels() {
            return Err(Error::Invalid(format!(
                "the model works on {} channels, the images have {}",
                prior.image_channels(),
                image.c
            )));
        }
        check_condition(model.network.as_ref(), operator.as_ref(), image.c)?;
        let setup = settings.setup(model, operator.as_ref(), image, plan, device)?;
        let mut phases = Phases::new(&setup);
        settings.method.record(&mut phases)?;
        let inner = setup.inner_levels(|sigma| settings.method.inner_sigmas(sigma))?;
        let _turn = device.turn();
        let (mut phases, decoder) = (phases.finish(), setup.decoder()?);
        // All graphs share one arena, but each graph has its own inputs.
        let graphs: Vec<&Graph> = phases.iter().map(|p| &p.graph).chain(decoder.iter().map(|d| &d.0)).collect();
        let plans: Vec<PlanOptions> = graphs.iter().map(|g| setup.plan_of(g, graphs.iter().copied())).collect();
        let ready = |g: Graph, plan: &PlanOptions| Executor::new(g, plan, setup.weights, device);
        let executors = phases.iter_mut().zip(&plans).map(|(p, plan)| ready(std::mem::take(&mut p.graph), plan));
        let executors = executors.collect::<Result<_>>()?;
        let decoder = match decoder {
            Some((g, z, image)) => Some(Mutex::new(Decoder { executor: ready(g, &plans[phases.len()])?, z, image })),
            None => None,
        };
        Ok(Restorer {
            machine: Machine::new(phases, executors, setup.levels(), inner),
            measurer: Measurer::new(operator.as_ref(), image)?,
            image,
            canvas: prior.canvas(image),
            operator: operator.clone(),
            state_item: operator.state_shape(Shape { n: 1, ..image }).map_or(0, |s| s.numel()),
            class_cond: prior.classes,
            settings: settings.clone(),
            start: setup.schedule.start as f32,
            picture: prior.picture_canvas(image),
            decoder,
            device: device.clone(),
            storage: plan.storage,
        })
    }

    /// Memory in bytes: (arena and inputs, weights). All plans share one arena.
    pub fn memory(&self) -> (u64, u64) {
        let plans = self.plans();
        let decoder =
            self.decoder.as_ref().map(|d| d.lock().unwrap_or_else(|e| e.into_inner()).executor.plan().arena_bytes);
        let arena = plans.iter().map(|p| p.arena_bytes).chain(decoder).max().unwrap_or(0);
        let io = plans.first().map_or(0, |p| p.io_bytes);
        (arena + io, plans.iter().map(|p| p.weight_bytes).max().unwrap_or(0))
    }

    /// The plans of the method's phases, one per phase.
    pub fn plans(&self) -> Vec<&Plan> {
        self.executors().into_iter().map(|e| e.plan()).collect()
    }

    /// The names of the method's phases, in the order of [`Restorer::plans`].
    pub fn phase_names(&self) -> Vec<&'static str> {
        self.machine.phases().iter().map(|p| p.name).collect()
    }

    /// One executor per phase of the method, in the order of [`Restorer::plans`].
    pub fn executors(&self) -> Vec<&Executor> {
        self.machine.executors()
    }

    /// Number of runs of each phase at each noise level: one row per level, least noise first.
    pub fn runs(&mut self) -> Result<Vec<Vec<usize>>> {
        method::runs(self.settings.method.as_ref(), &mut self.machine)
    }

    /// Network passes (forward evaluations plus VJPs) of one run of each phase.
    pub fn passes(&self) -> Vec<usize> {
        self.machine.phases().iter().map(|p| p.passes).collect()
    }

    /// Network passes of one image: forward evaluations plus VJPs.
    pub fn network_passes(&mut self) -> Result<usize> {
        method::network_passes(self.settings.method.as_ref(), &mut self.machine)
    }

    /// If on, the arena is filled with NaN before each run. A plan that reads memory before writing
    /// it then gives NaN.
    pub fn set_poison(&mut self, on: bool) {
        self.machine.set_poison(on);
    }

    /// Shape of x, (n, h, w, c): for a pixel model the image's, padded to the size multiple of the
    /// network; for a latent model the shape of the latent.
    pub fn canvas(&self) -> Shape {
        self.canvas
    }

    /// Shape of the images before they are cropped to the requested size.
    pub fn picture_canvas(&self) -> Shape {
        self.picture
    }

    /// Restores up to a batch of images. `progress` is called after every step and may stop the
    /// run.
    pub fn restore(
        &mut self,
        items: &[Item],
        mut progress: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<run::Restoration>> {
        let mut run = self.start(items)?;
        while let Some(now) = run.step()? {
            if progress(now).is_break() {
                return Err(Error::Cancelled);
            }
        }
        run.finish()
    }

    /// Starts a run that the caller steps.
    pub fn start(&mut self, items: &[Item]) -> Result<run::Run<'_>> {
        let n = self.image.n;
        if items.is_empty() || items.len() > n {
            return Err(Error::Invalid(format!("{} images; this restorer takes 1 to {n} at a time", items.len())));
        }
        let y_item = self.measurer.measurement_shape().numel();
        for item in items {
            let m = &item.measurement;
            if m.y.len() != y_item || m.state.len() != self.state_item {
                return Err(Error::Invalid(format!(
                    "a measurement has {} values with a state of {}; this operator gives {y_item} and {}",
                    m.y.len(),
                    m.state.len(),
                    self.state_item
                )));
            }
        }
        // A short batch is filled up with copies of its last image. Their results are dropped.
        let filled: Vec<&Item> = items.iter().chain(std::iter::repeat(&items[items.len() - 1])).take(n).collect();
        let x = filled.iter().flat_map(|item| self.first_x(item)).collect();
        let mut labels = Vec::new();
        if let Some(classes) = self.class_cond {
            for item in &filled {
                let label = item.label.unwrap_or(0);
                if label as usize >= classes {
                    return Err(Error::Invalid(format!("class {label} of a model with {classes} classes")));
                }
                labels.push(label as f32);
            }
        }
        let one = Shape { n: 1, ..self.image };
        let whitening = match self.machine.phases().iter().find_map(|p| p.whitening()) {
            Some(r) => {
                let of_item = |i: &&Item| weights(self.operator.as_ref(), one, &i.measurement, r);
                filled.iter().map(of_item).collect::<Result<Vec<_>>>()?.concat()
            }
            None => Vec::new(),
        };
        let power = match self.machine.phases().iter().any(|p| p.reads_power()) {
            true => {
                let of_item = |i: &&Item| power(self.operator.as_ref(), one, &i.measurement.state);
                filled.iter().map(of_item).collect::<Result<Vec<_>>>()?.concat()
            }
            false => Vec::new(),
        };
        let condition = match self.machine.phases().iter().any(|p| p.reads_condition()) {
            true => filled.iter().flat_map(|item| self.naive(item)).collect(),
            false => Vec::new(),
        };
        let batch = Batch {
            x,
            condition,
            y: filled.iter().flat_map(|i| i.measurement.y.iter().copied()).collect(),
            state: filled.iter().flat_map(|i| i.measurement.state.iter().copied()).collect(),
            labels,
            seeds: filled.iter().map(|i| (i.seed, i.sample)).collect(),
            whitening,
            power,
            noise_norm: filled.iter().map(|i| i.measurement.noise_norm as f32).collect(),
            noise_sigma: filled
                .iter()
                .map(|i| i.measurement.noise_variance(self.operator.as_ref(), self.image).sqrt())
                .collect(),
            is_frozen: vec![false; n],
            residual: vec![f32::NAN; n],
            trace: self.settings.traced.then(Trace::default),
        };
        let turn = self.device.turn();
        self.machine.begin(&batch)?;
        drop(turn);
        let left = self.settings.steps;
        Ok(run::Run { restorer: self, batch, left, residuals: vec![Vec::new(); n], count: items.len(), largest: 0.0 })
    }

    /// x of an item before the first step: (h, w, c) of the canvas.
    fn first_x(&self, item: &Item) -> Vec<f32> {
        match self.settings.method.start() {
            Start::Noise => {
                let key = NoiseKey { seed: item.seed, image: item.sample, step: 0, draw: Draw::Start };
                let mut x = vec![0.0; self.canvas.item()];
                fill_normal(&key.to_words(), 0, &mut x);
                x.iter_mut().for_each(|x| *x *= self.start);
                x
            }
            Start::Baseline => self.naive(item),
        }
    }

    /// The naive restoration of an item's measurement, which is also what a conditional score
    /// estimator reads: (h, w, c) of the picture canvas.
    fn naive(&self, item: &Item) -> Vec<f32> {
        let (one, m) = (Shape { n: 1, ..self.image }, &item.measurement);
        baseline_on_canvas(self.operator.as_ref(), &m.y, &m.state, one, self.picture_canvas())
    }

    /// Advice to the user when values are no longer finite. `largest` is the largest |x| at the
    /// last check.
    fn advice(&self, largest: f32) -> &'static str {
        let of_method = self.settings.method.advice();
        match (self.storage, of_method) {
            (_, Some(advice)) if largest > RUN_AWAY => advice,
            (Dtype::F16, _) => "f16 ends at 65504: choose bf16 or f32",
            (_, Some(advice)) => advice,
            _ => "the model's weights and its configuration may not belong together",
        }
    }
}
