//! The network as a function, the levels of a run, and the noise of a run.

use dmap::backend::Device;
use dmap::executor::Executor;
use dmap::graph::{Graph, PlanOptions, Shape, TensorId, backward};
use dmap::model::{Conditioning, Model, Prior};
use dmap::noise::{Draw, NoiseKey, fill_normal};
use dmap::sampler::Schedule;

pub const SEED: u64 = 5;

pub fn normal(step: usize, draw: Draw, count: usize) -> Vec<f64> {
    let mut values = vec![0.0; count];
    fill_normal(&NoiseKey { seed: SEED, image: 0, step: step as u32, draw }.to_words(), 0, &mut values);
    values.into_iter().map(f64::from).collect()
}

/// The network as a function of x and t, and its VJP.
pub struct Oracle {
    executor: Executor,
    ids: [TensorId; 5],
    prior: Prior,
    /// Moments of an optimiser that outlive a level, and the number of its steps.
    moments: [Vec<f64>; 2],
    optimised: i32,
}

impl Oracle {
    pub fn new(model: &Model, image: Shape) -> Oracle {
        let mut g = Graph::new();
        let (x, t, v) = (g.input("x", image), g.input("t", Shape::rows(1, 1)), g.input("v", image));
        let out = model.network.record(&mut g, x, t, &Conditioning::default()).unwrap();
        let dx = backward(&mut g, out, v, x).unwrap();
        g.output(out);
        g.output(dx);
        let executor = Executor::new(g, &PlanOptions::default(), &model.weights, &Device::cpu()).unwrap();
        let moments = [vec![0.0; image.numel()], vec![0.0; image.numel()]];
        Oracle { executor, ids: [x, t, v, out, dx], prior: model.network.prior(), moments, optimised: 0 }
    }

    /// The level of the training schedule with this sigma; it has no successor.
    pub fn level(&self, sigma: f64) -> Step {
        let s = Schedule::of_sigmas(self.prior.noise_schedule, self.prior.diffusion_steps, &[sigma]).unwrap();
        Step { index: 0, t: s.timesteps[0], bar: s.alpha_bar[0], next: f64::NAN }
    }

    /// Adam's direction for the gradient `g`.
    pub fn adam(&mut self, g: &[f64], betas: [f64; 2]) -> Vec<f64> {
        self.optimised += 1;
        let corrections = betas.map(|b| 1.0 - b.powi(self.optimised));
        let [m, v] = &mut self.moments;
        let moved = g.iter().zip(m.iter_mut().zip(v)).map(|(g, (m, v))| {
            *m = betas[0] * *m + (1.0 - betas[0]) * g;
            *v = betas[1] * *v + (1.0 - betas[1]) * g * g;
            *m / corrections[0] / ((*v / corrections[1]).sqrt() + 1e-8)
        });
        moved.collect()
    }

    /// eps(x, t), and J^T v.
    pub fn eps(&mut self, x: &[f64], t: f64, v: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let single = |v: &[f64]| v.iter().map(|&v| v as f32).collect::<Vec<f32>>();
        let [xi, ti, vi, out, dx] = self.ids;
        self.executor.write(xi, &single(x)).unwrap();
        self.executor.write(ti, &[t as f32]).unwrap();
        self.executor.write(vi, &single(v)).unwrap();
        self.executor.run().unwrap();
        let double = |id| self.executor.read(id).unwrap().into_iter().map(f64::from).collect();
        (double(out), double(dx))
    }

    /// E[x_0 | x_t]
    pub fn x0(&mut self, x: &[f64], l: Step) -> Vec<f64> {
        let eps = self.eps(x, l.t, &vec![0.0; x.len()]).0;
        mix(&[(l.bar.sqrt().recip(), x), (-((1.0 - l.bar) / l.bar).sqrt(), &eps)])
    }

    /// J^T v, J the Jacobian of x0.
    pub fn x0_vjp(&mut self, x: &[f64], l: Step, v: &[f64]) -> Vec<f64> {
        let back = self.eps(x, l.t, v).1;
        mix(&[(l.bar.sqrt().recip(), v), (-((1.0 - l.bar) / l.bar).sqrt(), &back)])
    }
}

pub fn mix(terms: &[(f64, &[f64])]) -> Vec<f64> {
    (0..terms[0].1.len()).map(|i| terms.iter().map(|(c, x)| c * x[i]).sum()).collect()
}

/// One step as a paper writes it: timestep and abar of this level and of the next.
#[derive(Clone, Copy)]
pub struct Step {
    pub index: usize,
    pub t: f64,
    pub bar: f64,
    pub next: f64,
}

impl Step {
    pub fn sigma(self) -> f64 {
        ((1.0 - self.bar) / self.bar).sqrt()
    }
}

/// eps of x if the clean image is x0.
pub fn noise_in(x: &[f64], x0: &[f64], l: Step) -> Vec<f64> {
    let root = (1.0 - l.bar).sqrt();
    mix(&[(1.0 / root, x), (-l.bar.sqrt() / root, x0)])
}
