//! Methods against transcriptions of their papers. The network is asked for its output and VJP; all
//! else is computed here with dense matrices and the same noise.

use crate::oracle::{Oracle, SEED, Step, mix, noise_in, normal};
use crate::problem::{Problem, measured};
use dmap::backend::Device;
use dmap::compare::relative_error;
use dmap::graph::{PlanOptions, Shape};
use dmap::model::Model;
use dmap::noise::Draw;
use dmap::operator::{Operator, baseline};
use dmap::sampler::{Item, Measurement, Restorer, Settings};
use std::ops::ControlFlow;

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
            let direction = o.adam(&g, [0.6, 0.7]);
            let spread = ((1.0 - l.next) / (1.0 - l.bar) * (1.0 - l.bar / l.next)).sqrt();
            let rest = (1.0 - l.next - spread * spread).max(0.0).sqrt();
            let rate = 0.03 * (l.next / l.bar).sqrt();
            mix(&[(l.next.sqrt(), &x0), (rest, &eps), (spread, &n), (-rate, &direction)])
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

/// x before the first step, whose abar is `bar`.
fn start(method: &str, operator: &dyn Operator, p: &Problem, m: &Measurement, image: Shape, bar: f64) -> Vec<f64> {
    let n = normal(0, Draw::Start, image.numel());
    match method {
        "dpir" | "dpir with views" | "red-diff" => {
            baseline(operator, &m.y, &m.state, image).1.values.into_iter().map(f64::from).collect()
        }
        "ddrm" => {
            // As the paper starts: ybar + sqrt(sigma^2 - a^2) n, or sigma n.
            let (sigma, none) = (((1.0 - bar) / bar).sqrt(), vec![0.0; image.numel()]);
            mix(&[(bar.sqrt(), &p.ddrm([&none, &none, &n], sigma, 1.0, 1.0))])
        }
        // In VE coordinates, as the paper starts.
        "daps" | "daps with momentum" => mix(&[((1.0 - bar).sqrt(), &n)]),
        _ => n,
    }
}

/// The first of five levels at which a method on a task differs from its transcription.
fn first_difference(typed: &str, method: &str, task: &str) -> Option<String> {
    let model = Model::shipped().unwrap();
    let (prior, image) = (model.network.prior(), Shape::new(1, 8, 8, 3));
    let (operator, measurement) = measured(task, image, 0.05, 3);
    let problem = Problem::new(operator.as_ref(), image, &measurement);
    let settings = Settings::parse(typed, &prior).unwrap().steps(5).clip(false);
    let schedule = settings.check(&prior, operator.as_ref()).unwrap();
    let mut restorer =
        Restorer::new(&model, &operator, &settings, image, PlanOptions::default(), &Device::cpu()).unwrap();
    restorer.set_poison(true);
    let item = Item::new(measurement.clone(), SEED);
    // A second run on the same restorer begins anew: what a method keeps from level to level does
    // not outlive a run.
    restorer.restore(std::slice::from_ref(&item), |_| ControlFlow::Continue(())).unwrap();
    let mut run = restorer.start(&[item]).unwrap();
    let mut oracle = Oracle::new(&model, image);
    let mut x = start(method, operator.as_ref(), &problem, &measurement, image, schedule.alpha_bar[4]);
    for index in (0..5).rev() {
        let next = if index == 0 { 1.0 } else { schedule.alpha_bar[index - 1] };
        let t = schedule.timesteps[index];
        let l = Step { index, t, bar: schedule.alpha_bar[index], next };
        x = transcribed(method, &mut oracle, &problem, x, l);
        let found = run.step().unwrap().unwrap().x().unwrap();
        let expected: Vec<f32> = x.iter().map(|&v| v as f32).collect();
        let error = relative_error(&found, &expected);
        if error.is_nan() || error >= 1e-4 {
            return Some(format!("{method}, {task}, level {index}: {error:.1e}"));
        }
    }
    None
}

#[test]
fn five_steps_equal_transcriptions_with_dense_matrices() {
    let methods = [
        ("dpir:lambda=0.3,from=1,to=0.05,cg=60", "dpir"),
        ("dpir:lambda=0.3,from=1,to=0.05,noise=0.5,views=4,cg=60", "dpir with views"),
        ("diffpir:lambda=2,zeta=0.3,cg=60", "diffpir"),
        ("ddnm:eta=0.85,cg=60", "ddnm"),
        ("ddrm:eta=0.85,etab=0.9", "ddrm"),
        ("pigdm:eta=0.2,cg=60", "pigdm"),
        ("sitcom:k=3", "sitcom"),
        ("red-diff", "red-diff"),
        ("dps:step=adam:0.03:0.6:0.7", "dps with adam"),
        ("daps:k=3,ode=3,tau=0.02", "daps"),
        ("daps:k=3,ode=3,tau=0.02,from=2", "daps"),
        ("daps:k=3,ode=3,tau=0.02,momentum=0.9", "daps with momentum"),
    ];
    let on_tasks = |(typed, method)| ["sr2", "denoise"].map(|task| first_difference(typed, method, task));
    let failures: Vec<String> = methods.into_iter().flat_map(on_tasks).flatten().collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn levels_of_daps_are_those_of_its_paper() {
    let prior = Model::shipped().unwrap().network.prior();
    let operator = dmap::operator::parse_task("sr2").unwrap();
    let schedule = Settings::parse("daps", &prior).unwrap().steps(8).check(&prior, operator.as_ref()).unwrap();
    // sigma_k = (100^(1/7) + k / 8 (0.1^(1/7) - 100^(1/7)))^7 for k = 0 .. 7, the noisiest first.
    let root = |v: f64| v.powf(1.0 / 7.0);
    for k in 0..8 {
        let expected = (root(100.0) + k as f64 / 8.0 * (root(0.1) - root(100.0))).powi(7);
        let found = schedule.sigma(7 - k);
        assert!((found / expected - 1.0).abs() < 2e-3, "level {k}: sigma {found}, expected {expected}");
    }
}
