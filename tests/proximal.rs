//! Proximal steps against dense solutions in f64, and the methods built on them against
//! transcriptions of their papers: the network is asked for its output and VJP, all else is
//! computed here with dense matrices and the same noise.

use dmap::backend::Device;
#[cfg(feature = "emulate")]
use dmap::backend::cuda::emulated::{Emulated, EmulatedChip};
use dmap::compare::relative_error;
use dmap::executor::Executor;
use dmap::graph::{Graph, PlanOptions, Shape, TensorId, backward};
use dmap::model::{Conditioning, Model, Prior};
use dmap::noise::{Draw, NoiseKey, fill_normal};
use dmap::operator::{Operator, Spectrum, parse_task};
use dmap::ops::axis_filter::{Axis, AxisFilter, Taps};
use dmap::sampler::batch::Batch;
use dmap::sampler::{
    Answer, Item, Measurement, Measurer, Moment, Noise, Phases, Restorer, Schedule, Settings, Spacing, baseline,
};
use std::cell::OnceCell;
use std::f64::consts::PI;
use std::ops::ControlFlow;
use std::sync::Arc;

const SEED: u64 = 5;

fn normal(step: usize, draw: Draw, count: usize) -> Vec<f64> {
    let mut values = vec![0.0; count];
    fill_normal(&NoiseKey { seed: SEED, image: 0, step: step as u32, draw }.to_words(), 0, &mut values);
    values.into_iter().map(f64::from).collect()
}

/// The columns of A: what it makes of each unit vector.
fn columns(operator: &dyn Operator, image: Shape, state: &[f32]) -> Vec<Vec<f64>> {
    let mut measurer = Measurer::new(operator, image).unwrap();
    let unit = |i: usize| (0..image.numel()).map(|j| f32::from(u8::from(i == j))).collect::<Vec<f32>>();
    let column = |i| measurer.apply(&unit(i), state).unwrap().into_iter().map(f64::from).collect();
    (0..image.numel()).map(column).collect()
}

/// x of M x = b by elimination with pivots.
fn solve(mut m: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|&i, &j| m[i][k].abs().total_cmp(&m[j][k].abs())).unwrap();
        m.swap(k, pivot);
        b.swap(k, pivot);
        for i in k + 1..n {
            let factor = m[i][k] / m[k][k];
            let row = m[k].clone();
            m[i][k..].iter_mut().zip(&row[k..]).for_each(|(a, p)| *a -= factor * p);
            b[i] -= factor * b[k];
        }
    }
    for k in (0..n).rev() {
        let known: f64 = (k + 1..n).map(|j| m[k][j] * b[j]).sum();
        b[k] = (b[k] - known) / m[k][k];
    }
    b
}

/// A measured image, and A as a matrix.
struct Problem {
    columns: Vec<Vec<f64>>,
    y: Vec<f64>,
    /// Standard deviation of the noise.
    s: f64,
    singular: OnceCell<Vec<(f64, Vec<f64>)>>,
}

/// Eigenvalues and eigenvectors of a symmetric matrix by cyclic rotations (Jacobi 1846).
fn eigenvectors(mut m: Vec<Vec<f64>>) -> Vec<(f64, Vec<f64>)> {
    let n = m.len();
    let mut vectors: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    let turned = |a: f64, b: f64, c: f64, s: f64| (c * a - s * b, s * a + c * b);
    for _ in 0..20 {
        let mut largest = 0f64;
        for i in 0..n {
            for j in i + 1..n {
                largest = largest.max(m[i][j].abs());
                if m[i][j].abs() < 1e-15 {
                    continue;
                }
                // The angle at which the element (i, j) vanishes.
                let angle = 0.5 * (2.0 * m[i][j]).atan2(m[j][j] - m[i][i]);
                let (s, c) = angle.sin_cos();
                for row in &mut m {
                    (row[i], row[j]) = turned(row[i], row[j], c, s);
                }
                for k in 0..n {
                    (m[i][k], m[j][k]) = turned(m[i][k], m[j][k], c, s);
                    (vectors[i][k], vectors[j][k]) = turned(vectors[i][k], vectors[j][k], c, s);
                }
            }
        }
        if largest < 1e-14 {
            break;
        }
    }
    (0..n).map(|i| m[i][i]).zip(vectors).collect()
}

impl Problem {
    fn new(operator: &dyn Operator, image: Shape, m: &Measurement) -> Problem {
        let columns = columns(operator, image, &m.state);
        let s = m.noise_variance(operator).sqrt();
        Problem { columns, y: m.y.iter().map(|&v| v.into()).collect(), s, singular: OnceCell::new() }
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.y.len()];
        for (column, x) in self.columns.iter().zip(x) {
            out.iter_mut().zip(column).for_each(|(o, a)| *o += a * x);
        }
        out
    }

    fn transpose(&self, u: &[f64]) -> Vec<f64> {
        self.columns.iter().map(|c| c.iter().zip(u).map(|(a, u)| a * u).sum()).collect()
    }

    fn missing(&self, x: &[f64]) -> Vec<f64> {
        self.y.iter().zip(self.apply(x)).map(|(y, a)| y - a).collect()
    }

    /// A^T (A A^T + rho)^-1 (y - A z)
    fn correction(&self, z: &[f64], rho: f64) -> Vec<f64> {
        let m = self.y.len();
        let mut gram = vec![vec![0.0; m]; m];
        for column in &self.columns {
            for (i, a) in column.iter().enumerate().filter(|(_, a)| **a != 0.0) {
                gram[i].iter_mut().zip(column).for_each(|(g, b)| *g += a * b);
            }
        }
        (0..m).for_each(|i| gram[i][i] += rho.max(1e-9));
        self.transpose(&solve(gram, self.missing(z)))
    }

    /// The squares of all singular values of A, 0 included, each with its right singular vector.
    fn singular(&self) -> &[(f64, Vec<f64>)] {
        self.singular.get_or_init(|| {
            let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
            eigenvectors(self.columns.iter().map(|a| self.columns.iter().map(|b| product(a, b)).collect()).collect())
        })
    }

    /// A step of DDRM to sigma, in VE coordinates.
    fn ddrm(&self, [x0, eps, n]: [&[f64]; 3], sigma: f64, eta: f64, eta_b: f64) -> Vec<f64> {
        let mut next = vec![0.0; x0.len()];
        let back = self.transpose(&self.y);
        for (power, v) in self.singular() {
            let of = |x: &[f64]| x.iter().zip(v).map(|(x, v)| x * v).sum::<f64>();
            let (x0, eps, n) = (of(x0), of(eps), of(n));
            let coefficient = if *power < 1e-6 {
                x0 + (1.0 - eta * eta).sqrt() * sigma * eps + eta * sigma * n
            } else {
                let (y, a) = (of(&back) / power, self.s / power.sqrt());
                match sigma < a {
                    true => x0 + (1.0 - eta * eta).sqrt() * sigma * (y - x0) / a + eta * sigma * n,
                    false => (1.0 - eta_b) * x0 + eta_b * y + (sigma * sigma - (a * eta_b).powi(2)).sqrt() * n,
                }
            };
            next.iter_mut().zip(v).for_each(|(x, v)| *x += coefficient * v);
        }
        next
    }

    fn proximal(&self, z: &[f64], rho: f64) -> Vec<f64> {
        z.iter().zip(self.correction(z, rho)).map(|(z, c)| z + c).collect()
    }
}

fn measured(task: &str, image: Shape, noise: f64, seed: u64) -> (Arc<dyn Operator>, Measurement) {
    let operator = parse_task(task).unwrap();
    let x: Vec<f32> = (0..image.item()).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * 0.8).collect();
    let one = Shape { n: 1, ..image };
    let m = Measurement::simulate(operator.as_ref(), one, &x, Noise::Gaussian(noise), seed).unwrap().0;
    (operator, m)
}

const TASKS: [&str; 6] =
    ["sr2", "gaussian-blur:size=5,sigma=1", "motion-blur:size=5", "inpaint-random", "inpaint-box", "denoise"];

fn proximal_steps_are_exact(device: &Device, tasks: &[&str]) {
    let model = Model::shipped().unwrap();
    let prior = model.network.prior();
    let image = Shape::new(2, 8, 8, 3);
    for task in tasks {
        // Two items with noise, mask and kernel of their own.
        let given = [measured(task, image, 0.05, 1), measured(task, image, 0.2, 2)];
        let operator = given[0].0.as_ref();
        let settings = Settings::parse("dps", &prior).unwrap().steps(5).spacing(Spacing::Linear);
        let plan = PlanOptions::default().tf32(false);
        let setup = settings.setup(&model, operator, image, plan, device).unwrap();
        let mut ids = None;
        let mut phases = Phases::new(&setup);
        phases
            .add("step", |s| {
                let x = s.x();
                let rho = s.scalar_of_noise(|_, noise| noise.powi(2) / 0.04);
                let prox = s.proximal(x, rho, 60)?;
                s.output("prox", prox);
                ids = Some((x, prox));
                Ok(())
            })
            .unwrap();
        let ((x, prox), mut phase) = (ids.unwrap(), phases.finish().remove(0));
        assert_eq!(phase.passes, 0, "no network is evaluated");
        let graph = std::mem::take(&mut phase.graph);
        let mut e = Executor::new(graph, &setup.plan, &model.weights, device).unwrap();
        e.set_poison(true);
        let batch = Batch {
            y: given.iter().flat_map(|g| g.1.y.clone()).collect(),
            state: given.iter().flat_map(|g| g.1.state.clone()).collect(),
            noise_norm: vec![0.0; 2],
            is_frozen: vec![false; 2],
            noise_sigma: given.iter().map(|g| g.1.noise_variance(operator).sqrt()).collect(),
            ..Batch::default()
        };
        phase.write_batch(&mut e, &batch).unwrap();
        let moment = Moment { level: setup.level(2), at: setup.level(2), round: 0, earlier: 0 };
        phase.write_moment(&mut e, &moment, &batch, &mut Vec::new()).unwrap();
        let z = normal(0, Draw::Start, image.numel());
        e.write(x, &z.iter().map(|&v| v as f32).collect::<Vec<_>>()).unwrap();
        e.run().unwrap();
        let found = e.read(prox).unwrap();
        for (n, (operator, m)) in given.iter().enumerate() {
            let problem = Problem::new(operator.as_ref(), Shape { n: 1, ..image }, m);
            let z = &z[n * image.item()..][..image.item()];
            let expected: Vec<f32> =
                problem.proximal(z, problem.s.powi(2) / 0.04).into_iter().map(|v| v as f32).collect();
            let error = relative_error(&found[n * image.item()..][..image.item()], &expected);
            assert!(error < 1e-4, "{task}, item {n}, {}: {error:.1e}", device.name());
        }
    }
}

#[test]
fn a_proximal_step_is_the_solution_of_its_equations() {
    proximal_steps_are_exact(&Device::cpu(), &TASKS);
    #[cfg(feature = "emulate")]
    proximal_steps_are_exact(&Device::emulated(Emulated::new(EmulatedChip::Ada, 3)), &["sr2", "inpaint-random"]);
}

/// The network as a function of x and t, and its VJP.
struct Oracle {
    executor: Executor,
    ids: [TensorId; 5],
    prior: Prior,
    /// Moments of an optimiser that outlive a level, and the number of its steps.
    moments: [Vec<f64>; 2],
    optimised: i32,
}

impl Oracle {
    fn new(model: &Model, image: Shape) -> Oracle {
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
    fn level(&self, sigma: f64) -> Step {
        let s = Schedule::of_sigmas(self.prior.noise_schedule, self.prior.diffusion_steps, &[sigma]).unwrap();
        Step { index: 0, t: s.timesteps[0], bar: s.alpha_bar[0], next: f64::NAN, next_t: f64::NAN }
    }

    /// Adam's direction for the gradient `g`.
    fn adam(&mut self, g: &[f64], betas: [f64; 2]) -> Vec<f64> {
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
    fn eps(&mut self, x: &[f64], t: f64, v: &[f64]) -> (Vec<f64>, Vec<f64>) {
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
    fn x0(&mut self, x: &[f64], l: Step) -> Vec<f64> {
        let eps = self.eps(x, l.t, &vec![0.0; x.len()]).0;
        mix(&[(l.bar.sqrt().recip(), x), (-((1.0 - l.bar) / l.bar).sqrt(), &eps)])
    }

    /// J^T v, J the Jacobian of x0.
    fn x0_vjp(&mut self, x: &[f64], l: Step, v: &[f64]) -> Vec<f64> {
        let back = self.eps(x, l.t, v).1;
        mix(&[(l.bar.sqrt().recip(), v), (-((1.0 - l.bar) / l.bar).sqrt(), &back)])
    }
}

fn mix(terms: &[(f64, &[f64])]) -> Vec<f64> {
    (0..terms[0].1.len()).map(|i| terms.iter().map(|(c, x)| c * x[i]).sum()).collect()
}

/// One step as a paper writes it: timestep and abar of this level and of the next.
#[derive(Clone, Copy)]
struct Step {
    index: usize,
    t: f64,
    bar: f64,
    next: f64,
    next_t: f64,
}

impl Step {
    fn sigma(self) -> f64 {
        ((1.0 - self.bar) / self.bar).sqrt()
    }
}

/// eps of x if the clean image is x0.
fn noise_in(x: &[f64], x0: &[f64], l: Step) -> Vec<f64> {
    let root = (1.0 - l.bar).sqrt();
    mix(&[(1.0 / root, x), (-l.bar.sqrt() / root, x0)])
}

/// An 8x8 image left for right (bit 0) and upside down (bit 1).
fn mirrored(x: &[f64], view: u32) -> Vec<f64> {
    let turn = |i: usize, bit: u32| if view & bit != 0 { 7 - i } else { i };
    (0..x.len()).map(|k| x[(turn(k / 24, 2) * 8 + turn(k / 3 % 8, 1)) * 3 + k % 3]).collect()
}

/// x after a step of a method, transcribed from its paper.
fn transcribed(method: &str, o: &mut Oracle, p: &Problem, x: Vec<f64>, l: Step) -> Vec<f64> {
    let n = normal(l.index, Draw::Ancestral, x.len());
    match method {
        "dpir" => {
            let z = p.proximal(&x, 0.3 * (p.s / l.sigma()).powi(2));
            o.x0(&mix(&[(l.bar.sqrt(), &z)]), l)
        }
        "dpir with views" => {
            let z = p.proximal(&x, 0.3 * (p.s / l.sigma()).powi(2));
            let estimates: Vec<Vec<f64>> = (0..4)
                .map(|view| {
                    let n = normal(l.index, Draw::Estimate(view), x.len());
                    let x_t = mix(&[(l.bar.sqrt(), &z), (0.5 * (1.0 - l.bar).sqrt(), &n)]);
                    mirrored(&o.x0(&mirrored(&x_t, view), l), view)
                })
                .collect();
            let terms: Vec<(f64, &[f64])> = estimates.iter().map(|e| (0.25, &e[..])).collect();
            mix(&terms)
        }
        "diffpir" => {
            let zeta: f64 = 0.3;
            let x0 = o.x0(&x, l);
            let x0 = p.proximal(&x0, 2.0 * (p.s / l.sigma()).powi(2));
            let eps = noise_in(&x, &x0, l);
            let spread = (1.0 - l.next).sqrt();
            mix(&[(l.next.sqrt(), &x0), ((1.0 - zeta).sqrt() * spread, &eps), (zeta.sqrt() * spread, &n)])
        }
        "ddnm" => {
            let eta: f64 = 0.85;
            let x0 = o.x0(&x, l);
            let eps = noise_in(&x, &x0, l);
            let (a, spread) = (l.next.sqrt(), (1.0 - l.next).sqrt());
            let (kappa, gamma) = match spread >= a * p.s {
                true => (1.0, (spread.powi(2) - (a * p.s).powi(2)).sqrt()),
                false => (spread / (a * p.s), 0.0),
            };
            let corrected = mix(&[(1.0, &x0), (kappa, &p.correction(&x0, 0.0))]);
            mix(&[(a, &corrected), (gamma * eta, &n), (gamma * (1.0 - eta * eta).sqrt(), &eps)])
        }
        "pigdm" => {
            let eta = 0.2;
            let x0 = o.x0(&x, l);
            let eps = noise_in(&x, &x0, l);
            let r2 = l.sigma().powi(2) / (1.0 + l.sigma().powi(2));
            let g = o.x0_vjp(&x, l, &p.correction(&x0, p.s.powi(2) / r2));
            let c1 = eta * ((1.0 - l.bar / l.next) * (1.0 - l.next) / (1.0 - l.bar)).sqrt();
            let c2 = (1.0 - l.next - c1 * c1).max(0.0).sqrt();
            mix(&[(l.next.sqrt(), &x0), (c1, &n), (c2, &eps), ((l.bar * l.next).sqrt(), &g)])
        }
        "ddrm" => {
            let x0 = o.x0(&x, l);
            let eps = noise_in(&x, &x0, l);
            let next = p.ddrm([&x0, &eps, &n], ((1.0 - l.next) / l.next).sqrt(), 0.85, 0.9);
            mix(&[(l.next.sqrt(), &next)])
        }
        "sitcom" => {
            let (mut v, mut m, mut s) = (x.clone(), vec![0.0; x.len()], vec![0.0; x.len()]);
            let mut x0 = Vec::new();
            for k in 1..=3 {
                x0 = o.x0(&v, l);
                let missing = p.missing(&x0);
                let enough = 1.02 * p.s * (p.y.len() as f64).sqrt();
                if missing.iter().map(|r| r * r).sum::<f64>().sqrt() <= enough {
                    break;
                }
                let g = o.x0_vjp(&v, l, &p.transpose(&mix(&[(-2.0, &missing)])));
                for i in 0..v.len() {
                    m[i] = 0.9 * m[i] + 0.1 * g[i];
                    s[i] = 0.999 * s[i] + 0.001 * g[i] * g[i];
                    let (first, second) = (m[i] / (1.0 - 0.9f64.powi(k)), s[i] / (1.0 - 0.999f64.powi(k)));
                    v[i] -= 0.02 * first / (second.sqrt() + 1e-8);
                }
            }
            mix(&[(l.next.sqrt(), &x0), ((1.0 - l.next).sqrt(), &n)])
        }
        "red-diff" => {
            let x_t = mix(&[(l.bar.sqrt(), &x), ((1.0 - l.bar).sqrt(), &n)]);
            let eps = o.eps(&x_t, l.t, &vec![0.0; x.len()]).0;
            let back = p.transpose(&p.missing(&x));
            let by_prior = 0.25 * l.sigma() / x.len() as f64;
            let g = mix(&[(by_prior, &eps), (-by_prior, &n), (-1.0 / p.y.len() as f64, &back)]);
            let direction = o.adam(&g, [0.9, 0.99]);
            mix(&[(1.0, &x), (-0.1, &direction)])
        }
        "dps with adam" => {
            let x0 = o.x0(&x, l);
            let eps = noise_in(&x, &x0, l);
            let missing = p.missing(&x0);
            let norm = missing.iter().map(|r| r * r).sum::<f64>().sqrt();
            let g = o.x0_vjp(&x, l, &p.transpose(&mix(&[(-1.0 / norm, &missing)])));
            let direction = o.adam(&g, [0.3, 0.7]);
            let spread = ((1.0 - l.next) / (1.0 - l.bar) * (1.0 - l.bar / l.next)).sqrt();
            let rest = (1.0 - l.next - spread * spread).max(0.0).sqrt();
            let rate = 0.03 * (l.next / l.bar).sqrt();
            mix(&[(l.next.sqrt(), &x0), (rest, &eps), (spread, &n), (-rate, &direction)])
        }
        "dmap with newton" => {
            let x0 = o.x0(&x, l);
            let beta = 1.0 - l.bar / l.next;
            let (by_x0, by_x) =
                (beta * l.next.sqrt() / (1.0 - l.bar), (1.0 - l.next) * (1.0 - beta).sqrt() / (1.0 - l.bar));
            let mean = mix(&[(by_x0, &x0), (by_x, &x)]);
            let spread = (beta * (1.0 - l.next) / (1.0 - l.bar)).sqrt();
            let mut x = mix(&[(1.0, &mean), (spread, &n)]);
            let at = Step { index: 0, t: l.next_t, bar: l.next, next: f64::NAN, next_t: f64::NAN };
            for _ in 0..if l.index == 0 { 0 } else { 2 } {
                let (x0, r2) = (o.x0(&x, at), 1.0 - l.next);
                let g = o.x0_vjp(&x, at, &p.correction(&x0, p.s.powi(2) / r2));
                let moved = mix(&[(1.0, &x), (0.7 * spread.powi(2) / r2, &g), (-1.0, &mean)]);
                let norm = moved.iter().map(|v| v * v).sum::<f64>().sqrt();
                x = mix(&[(1.0, &mean), (spread * (x.len() as f64).sqrt() / norm, &moved)]);
            }
            x
        }
        "daps" | "daps with momentum" => {
            let momentum = if method == "daps" { 0.0 } else { 0.9 };
            let mut z: Vec<f64> = x.iter().map(|x| x / l.bar.sqrt()).collect();
            for pair in ode_sigmas(3, l.sigma()).windows(2) {
                let at = o.level(pair[0]);
                let x0 = o.x0(&mix(&[(at.bar.sqrt(), &z)]), at);
                let ratio = o.level(pair[1]).sigma() / at.sigma();
                z = mix(&[(ratio, &z), (1.0 - ratio, &x0)]);
            }
            let rate = 5e-5 * (1.0 - 0.99 * (4 - l.index) as f64 / 6.0);
            let (mut x, mut v) = (z.clone(), normal(l.index, Draw::Estimate(0), z.len()));
            for k in 0..3 {
                let n = normal(l.index, Draw::Ancestral.round(k), z.len());
                let likelihood = p.transpose(&p.missing(&x));
                for i in 0..x.len() {
                    let score = 2.0 * likelihood[i] / 0.02f64.powi(2) + (z[i] - x[i]) / l.sigma().powi(2);
                    v[i] = momentum * v[i] + rate.sqrt() * score + (2.0 * (1.0f64 - momentum)).sqrt() * n[i];
                    x[i] += rate.sqrt() * v[i];
                }
            }
            mix(&[(l.next.sqrt(), &x), ((1.0 - l.next).sqrt(), &normal(l.index, Draw::Travel, x.len()))])
        }
        other => panic!("{other}"),
    }
}

/// Sigmas of `count` Euler steps from `from` to 0.01.
fn ode_sigmas(count: usize, from: f64) -> Vec<f64> {
    let root = |v: f64| v.powf(1.0 / 7.0);
    (0..=count).map(|k| (root(from) + k as f64 / count as f64 * (root(0.01) - root(from))).powi(7)).collect()
}

#[test]
fn five_steps_equal_transcriptions_with_dense_matrices() {
    let model = Model::shipped().unwrap();
    let prior = model.network.prior();
    let image = Shape::new(1, 8, 8, 3);
    for typed in [
        "dpir:lambda=0.3,from=1,to=0.05,cg=60",
        "dpir:lambda=0.3,from=1,to=0.05,noise=0.5,views=4,cg=60",
        "diffpir:lambda=2,zeta=0.3,cg=60",
        "ddnm:eta=0.85,cg=60",
        "ddrm:eta=0.85,etab=0.9",
        "pigdm:eta=0.2,cg=60",
        "sitcom:k=3",
        "red-diff",
        "dmap:k=2,newton=0.7,cg=60",
        "dps:step=adam:0.03:0.3:0.7",
        "daps:k=3,ode=3,tau=0.02",
        "daps:k=3,ode=3,tau=0.02,momentum=0.9",
    ] {
        let method = match typed.split(':').next().unwrap() {
            "dpir" if typed.contains("views") => "dpir with views",
            "daps" if typed.contains("momentum") => "daps with momentum",
            "dps" => "dps with adam",
            "dmap" => "dmap with newton",
            name => name,
        };
        for task in ["sr2", "denoise"] {
            let (operator, measurement) = measured(task, image, 0.05, 3);
            let problem = Problem::new(operator.as_ref(), image, &measurement);
            let settings = Settings::parse(typed, &prior).unwrap().steps(5).clip(false);
            let schedule = settings.check(&prior, operator.as_ref()).unwrap();
            let mut restorer =
                Restorer::new(&model, &operator, &settings, image, PlanOptions::default(), &Device::cpu()).unwrap();
            restorer.set_poison(true);
            let item = Item::new(measurement.clone(), SEED);
            let mut run = restorer.start(&[item]).unwrap();
            let mut oracle = Oracle::new(&model, image);
            let mut x = match method {
                "dpir" | "dpir with views" | "red-diff" => {
                    let y = dmap::image::Picture {
                        width: operator.measurement_shape(image).w,
                        height: operator.measurement_shape(image).h,
                        values: measurement.y.clone(),
                    };
                    let naive = baseline(operator.as_ref(), &y, &measurement.state, image).1;
                    naive.values.into_iter().map(f64::from).collect()
                }
                "ddrm" => {
                    // As the paper starts: ybar + sqrt(sigma^2 - a^2) n, or sigma n.
                    let (n, bar) = (normal(0, Draw::Start, image.numel()), schedule.alpha_bar[4]);
                    let (sigma, none) = (((1.0 - bar) / bar).sqrt(), vec![0.0; image.numel()]);
                    mix(&[(bar.sqrt(), &problem.ddrm([&none, &none, &n], sigma, 1.0, 1.0))])
                }
                _ => normal(0, Draw::Start, image.numel()),
            };
            for index in (0..5).rev() {
                let next = if index == 0 { 1.0 } else { schedule.alpha_bar[index - 1] };
                let l = Step {
                    index,
                    t: schedule.timesteps[index],
                    bar: schedule.alpha_bar[index],
                    next,
                    next_t: schedule.timesteps[index.max(1) - 1],
                };
                x = transcribed(method, &mut oracle, &problem, x, l);
                let found = run.step().unwrap().unwrap().x().unwrap();
                let expected: Vec<f32> = x.iter().map(|&v| v as f32).collect();
                let error = relative_error(&found, &expected);
                assert!(error < 1e-4, "{method}, {task}, level {index}: {error:.1e}");
            }
        }
    }
}

#[test]
fn auto_takes_proximal_steps_where_they_are_possible() {
    let (pixels, latents) = (Model::shipped().unwrap(), Model::shipped_latent().unwrap());
    let takes = |model: &Model, task: &str, answer| {
        let operator = parse_task(task).unwrap();
        let settings = Settings::auto(answer, &model.network.prior(), operator.as_ref()).unwrap();
        assert_eq!(settings.method.answer() == Answer::Map, settings.method.method().starts_with("dpir"));
        settings.method.method()
    };
    assert!(takes(&pixels, "sr4", Answer::Map).starts_with("dpir:lambda=0.23,from=0.384,"));
    assert!(takes(&pixels, "inpaint-box", Answer::Map).starts_with("dpir:lambda=0.23,from=1,"));
    assert!(takes(&pixels, "sr4", Answer::Sample).starts_with("dmap:"));
    assert!(takes(&latents, "sr4", Answer::Map).starts_with("dmap:"));
}

#[test]
fn what_has_no_proximal_step_is_refused_with_what_works() {
    let latent = Model::shipped_latent().unwrap().network.prior();
    let operator = parse_task("sr4").unwrap();
    for method in ["dpir", "diffpir", "ddnm", "ddrm", "pigdm"] {
        let settings = Settings::parse(method, &latent).unwrap();
        let said = settings.check(&latent, operator.as_ref()).unwrap_err().to_string();
        assert!(said.contains("needs a pixel model") && said.contains("dmap and dps work"), "{said}");
    }
}

/// What an operator says about its spectrum.
#[derive(Clone, Copy, Debug)]
enum Known {
    Nothing,
    Cosine,
    Axes,
}

/// The mean of a pixel and its neighbours to the left and right, the edges repeated.
#[derive(Debug)]
struct Sideways(Known);

impl Sideways {
    fn taps(w: usize) -> Taps {
        let row = |i: usize| [i.saturating_sub(1), i, (i + 1).min(w - 1)].map(|j| (j, 1.0 / 3.0)).to_vec();
        Taps { rows: (0..w).map(row).collect(), inputs: w }
    }
}

impl Operator for Sideways {
    fn task(&self) -> String {
        "sideways".into()
    }
    fn build(&self, g: &mut Graph, x: TensorId, _: Option<TensorId>) -> dmap::Result<TensorId> {
        let taps = Arc::new(Sideways::taps(g.shape(x).w));
        g.one(AxisFilter { axis: Axis::Width, taps }, "operator.sideways", &[x])
    }
    fn spectrum(&self) -> Option<Spectrum<'_>> {
        match self.0 {
            Known::Nothing => None,
            Known::Cosine => Some(Spectrum::cosine(|x, _| {
                let of_column = |l: usize| ((1.0 + 2.0 * (PI * l as f64 / x.w as f64).cos()) / 3.0).powi(2);
                (0..x.h * x.w).map(|i| of_column(i % x.w)).collect()
            })),
            Known::Axes => Some(Spectrum::separable(|x| {
                let same = Taps { rows: (0..x.h).map(|i| vec![(i, 1.0)]).collect(), inputs: x.h };
                [same, Sideways::taps(x.w)]
            })),
        }
    }
}

#[test]
fn ddrm_refuses_an_operator_without_an_exact_spectrum() {
    let prior = Model::shipped().unwrap().network.prior();
    let settings = Settings::parse("ddrm", &prior).unwrap();
    let blur = parse_task("motion-blur:size=5").unwrap();
    for operator in [&Sideways(Known::Nothing), blur.as_ref()] {
        let said = settings.check(&prior, operator).unwrap_err().to_string();
        let expected = format!("which {} does not give; dmap, dps and, where it is linear, dpir work", operator.task());
        assert!(said.contains(&expected), "{said}");
    }
}

#[test]
fn ddrm_restores_the_same_by_any_singular_vectors_and_beyond_a_canvas() {
    let model = Model::shipped().unwrap();
    // Not a multiple of the network's size: the canvas is larger.
    let image = Shape::new(1, 13, 20, 3);
    let settings = Settings::parse("ddrm", &model.network.prior()).unwrap().steps(5);
    let restored = |known| {
        let operator: Arc<dyn Operator> = Arc::new(Sideways(known));
        let x: Vec<f32> = (0..image.item()).map(|i| (i as f32 * 0.1).sin() * 0.5).collect();
        let m = Measurement::simulate(operator.as_ref(), image, &x, Noise::Gaussian(0.02), 1).unwrap().0;
        let mut restorer =
            Restorer::new(&model, &operator, &settings, image, PlanOptions::default(), &Device::cpu()).unwrap();
        assert_ne!(restorer.canvas(), image);
        restorer.set_poison(true);
        let items = [Item::new(m, SEED)];
        restorer.restore(&items, |_| ControlFlow::Continue(())).unwrap().remove(0).picture.values
    };
    let error = relative_error(&restored(Known::Axes), &restored(Known::Cosine));
    assert!(error < 1e-3, "{error:.1e}");
}
