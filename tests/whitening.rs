//! The residual of a blur by the covariance of its measurement: its parts against slow loops in
//! f64, its gradient against differences, and what it is for.

#[path = "transforms/cosine.rs"]
mod cosine;
#[path = "transforms/hartley.rs"]
mod hartley;

use cosine::cosine_transform;
use dmap::backend::Device;
use dmap::executor::Executor;
use dmap::graph::{Graph, PlanOptions, Shape, TensorId};
use dmap::image::{Photo, Picture};
use dmap::metrics::psnr;
use dmap::model::Model;
use dmap::noise::{Draw, NoiseKey, fill_normal};
use dmap::operator::{AxisKernel, Observed, Operator, SeparableBlur, Spectrum, parse_task};
use dmap::ops::filter2d::Boundary;
use dmap::sampler::whitening::weights;
use dmap::sampler::{Guidance, Item, Measurement, Measurer, Noise, Phases, Restorer, Settings, StepRule, WHITEN};
use hartley::hartley_transform;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

const AROUND: &str = "motion-blur:size=9,boundary=circular";
const BLURS: [&str; 4] =
    ["gaussian-blur:size=9,sigma=1.5", "motion-blur:size=9", "motion-blur:size=15,length=0.8,spread=0.1", AROUND];

/// Coefficients of one channel of y at the frequencies of a blur.
fn transformed(task: &str, y: &[f32], shape: Shape, channel: usize) -> Vec<f64> {
    match task.contains("circular") {
        true => hartley_transform(y, shape, channel),
        false => cosine_transform(y, shape, channel),
    }
}

fn normal(seed: u64, count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count];
    fill_normal(&NoiseKey { seed, image: 0, step: 0, draw: Draw::Start }.to_words(), 0, &mut values);
    values
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[test]
fn a_measurement_of_white_images_is_white_after_it() {
    let (image, r, s) = (Shape::new(1, 40, 32, 3), 0.3, 0.05);
    for task in BLURS {
        let operator = parse_task(task).unwrap();
        let state = operator.draw_state(image, 4).unwrap();
        let mut measurer = Measurer::new(operator.as_ref(), image).unwrap();
        let noise_norm = s * (image.numel() as f64).sqrt();
        let bands = |k: usize, l: usize| 4 * (4 * k / image.h) + 4 * l / image.w;
        let mut before = [0.0; 16];
        let mut after = [0.0; 16];
        let mut counts = [0.0; 16];
        for draw in 0..12 {
            let x: Vec<f32> = normal(draw, image.numel()).iter().map(|v| v * r as f32).collect();
            let mut y = measurer.apply(&x, &state).unwrap();
            y.iter_mut().zip(normal(100 + draw, image.numel())).for_each(|(y, n)| *y += s as f32 * n);
            let m = Measurement::new(y, state.clone(), noise_norm);
            let w = weights(operator.as_ref(), image, &m, r).unwrap();
            assert!((dot(&w, &w) / w.len() as f64 - 1.0).abs() < 1e-5, "{task}: white noise keeps its norm");
            for channel in 0..3 {
                for (p, c) in transformed(task, &m.y, image, channel).into_iter().enumerate() {
                    let band = bands(p / image.w, p % image.w);
                    before[band] += c * c;
                    after[band] += (c * f64::from(w[p])).powi(2);
                    counts[band] += 1.0;
                }
            }
        }
        let spread = |sums: [f64; 16]| {
            let means: Vec<f64> = sums.iter().zip(counts).map(|(s, n)| s / n).collect();
            means.iter().fold(0f64, |a, &b| a.max(b)) / means.iter().fold(f64::MAX, |a, &b| a.min(b))
        };
        assert!(spread(before) > 3.0 && spread(after) < 1.4, "{task}: {} to {}", spread(before), spread(after));
    }
}

#[test]
fn a_measurement_without_noise_is_as_exact_as_8_bits() {
    let image = Shape::new(1, 32, 32, 3);
    let operator = parse_task("gaussian-blur").unwrap();
    let of = |deviation: f64| {
        let noise_norm = deviation * (image.numel() as f64).sqrt();
        let m = Measurement::new(vec![0.0; image.numel()], vec![], noise_norm);
        weights(operator.as_ref(), image, &m, 0.3).unwrap()
    };
    // Steps of 2 / 255, rounded: a uniform error of deviation step / sqrt(12).
    let rounded = of(2.0 / 255.0 / 12f64.sqrt());
    assert!(of(0.0).iter().zip(&rounded).all(|(a, b)| (a - b).abs() < 1e-4 * b));
    let (small, large) = rounded.iter().fold((f32::MAX, 0f32), |(a, b), &w| (a.min(w), b.max(w)));
    assert!(large / small > 100.0 && large / small < 140.0, "0.3 over the deviation of rounding: {}", large / small);
}

#[test]
fn the_residual_is_the_norm_of_the_weighted_transform_and_its_gradient_that_of_differences() {
    let model = Model::shipped().unwrap();
    // Two items of a batch with noise and kernel of their own.
    let image = Shape::new(2, 24, 16, 3);
    let one = Shape { n: 1, ..image };
    for task in [BLURS[0], BLURS[1], AROUND] {
        let operator = parse_task(task).unwrap();
        let guidance = Guidance::new(StepRule::Polyak(0.3));
        let settings = Settings::parse("dps", &model.network.prior()).unwrap();
        let cpu = Device::cpu();
        let setup = settings.setup(&model, operator.as_ref(), image, PlanOptions::default(), &cpu).unwrap();
        let mut recorded = None;
        let mut phases = Phases::new(&setup);
        phases
            .add("step", |s| {
                let x = s.x();
                let residual = s.residual(x, &guidance)?;
                let gradient = s.gradient(residual, x)?;
                s.output("residual", residual);
                s.output("gradient", gradient);
                recorded = Some((residual, gradient));
                Ok(())
            })
            .unwrap();
        let (residual, gradient) = recorded.unwrap();
        let graph = phases.finish().remove(0).graph;
        let mut e = Executor::new(graph, &setup.plan, setup.weights, setup.device).unwrap();
        let measurements: Vec<Measurement> = (0..2u64)
            .map(|k| {
                Measurement::new(
                    normal(10 + k, image.item()),
                    operator.draw_state(one, k).unwrap(),
                    2.0 + 5.0 * k as f64,
                )
            })
            .collect();
        let all = |f: &dyn Fn(&Measurement) -> Vec<f32>| measurements.iter().flat_map(f).collect::<Vec<f32>>();
        let given = [
            ("y", all(&|m| m.y.clone())),
            ("state", all(&|m| m.state.clone())),
            ("whitening", all(&|m| weights(operator.as_ref(), one, m, WHITEN).unwrap())),
        ];
        for (name, values) in given.iter().filter(|g| !g.1.is_empty()) {
            let input = e.graph().find_input(name).unwrap();
            e.write(input, values).unwrap();
        }
        let input = e.graph().find_input("x").unwrap();
        let mut residuals = |x: Vec<f32>| {
            e.write(input, &x).unwrap();
            e.run().unwrap();
            (e.read(residual).unwrap(), e.read(gradient).unwrap())
        };
        let x = normal(3, image.numel());
        let (r, g) = residuals(x.clone());
        let mut measurer = Measurer::new(operator.as_ref(), one).unwrap();
        for (n, m) in measurements.iter().enumerate() {
            let range = n * image.item()..(n + 1) * image.item();
            let w = weights(operator.as_ref(), one, m, WHITEN).unwrap();
            let mut error = measurer.apply(&x[range.clone()], &m.state).unwrap();
            error.iter_mut().zip(&m.y).for_each(|(a, y)| *a -= y);
            let square = |c| {
                transformed(task, &error, one, c).iter().zip(&w).map(|(v, &w)| (v * f64::from(w)).powi(2)).sum::<f64>()
            };
            let expected = (0..3).map(square).sum::<f64>().sqrt();
            assert!((f64::from(r[n]) / expected - 1.0).abs() < 1e-5, "{task} item {n}: {} for {expected}", r[n]);
            // Along a random direction of this item alone.
            let mut direction = vec![0.0; image.numel()];
            direction[range].copy_from_slice(&normal(20, image.item()));
            let moved = |step: f32| x.iter().zip(&direction).map(|(x, d)| x + step * d).collect::<Vec<f32>>();
            let (ahead, behind) = (residuals(moved(0.02)).0, residuals(moved(-0.02)).0);
            let slope = f64::from(ahead[n] - behind[n]) / 0.04;
            let stated = dot(&g, &direction);
            assert!((slope - stated).abs() < 2e-3 * stated.abs().max(1.0), "{task} item {n}: {stated} for {slope}");
            assert_eq!(ahead[1 - n], behind[1 - n], "{task}: items don't meet");
        }
    }
}

/// The demonstration's photo, its middle at 64x64, restored from a blur with noise 0.025: PSNR over
/// that of the measurement.
fn gain(task: &str, method: &str) -> f64 {
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/photo.png");
    let truth = Photo::read(&photo).unwrap().picture.centre_crop(64, 64);
    let image = Shape::new(1, 64, 64, 3);
    let operator: Arc<dyn Operator> = parse_task(task).unwrap();
    let state = operator.draw_state(image, 1).unwrap();
    let mut y = Measurer::new(operator.as_ref(), image).unwrap().apply(&truth.values, &state).unwrap();
    Noise::Gaussian(0.025).apply(&mut y, 1, Observed::All);
    let seen = Picture { width: 64, height: 64, values: y.clone() };
    let noise_norm = Noise::Gaussian(0.025).expected_norm(&y, Observed::All);
    let item = Item::new(Measurement::new(y, state, noise_norm), 1);
    let model = Model::shipped().unwrap();
    let settings = Settings::parse(method, &model.network.prior()).unwrap();
    let mut restorer =
        Restorer::new(&model, &operator, &settings, image, PlanOptions::default(), &Device::cpu()).unwrap();
    let restored = restorer.restore(&[item], |_| ControlFlow::Continue(())).unwrap().remove(0);
    // The image explains the measurement by the plain norm too.
    assert!((0.8..1.2).contains(&(restored.residual / noise_norm)), "{task}: {} of {noise_norm}", restored.residual);
    psnr(&restored.picture, &truth) - psnr(&seen, &truth)
}

#[test]
fn a_whitened_residual_restores_blurs_better() {
    for task in ["gaussian-blur:size=13,sigma=2", "motion-blur:size=21"] {
        let plain = gain(task, "dmap:whiten=0");
        let whitened = gain(task, "dmap");
        assert!(
            whitened > plain + 0.2 && whitened > 1.0,
            "{task}: {plain} dB by the plain norm, {whitened} dB whitened"
        );
    }
}

#[test]
fn steps_as_published_and_what_is_no_blur_take_the_plain_norm() {
    let whitening = |g: Guidance, task: &str| g.whitening(parse_task(task).unwrap().as_ref());
    let polyak = Guidance::new(StepRule::Polyak(0.4));
    for task in ["sr4", "inpaint-random", "denoise"] {
        assert_eq!(whitening(polyak, task), None, "{task}");
    }
    for task in BLURS {
        assert_eq!(whitening(polyak, task), Some(WHITEN), "{task}");
        assert_eq!(whitening(Guidance::new(StepRule::Published(1.0)), task), None, "{task}");
        assert_eq!(whitening(Guidance { whiten: Some(0.0), ..polyak }, task), None, "{task}");
        let operator = parse_task(task).unwrap();
        for wrong in [-0.1, f64::NAN, f64::INFINITY] {
            let given = Guidance { whiten: Some(wrong), ..polyak };
            let error = given.check(operator.as_ref()).unwrap_err().to_string();
            assert!(error.contains("whiten is"), "{error}");
        }
    }
}

/// A blur of somebody else's, which gives its spectrum or not.
#[derive(Debug)]
struct OtherBlur(SeparableBlur, bool);

impl Operator for OtherBlur {
    fn task(&self) -> String {
        "other-blur".into()
    }
    fn build(&self, g: &mut Graph, x: TensorId, state: Option<TensorId>) -> dmap::Result<TensorId> {
        self.0.build(g, x, state)
    }
    fn spectrum(&self) -> Option<Spectrum<'_>> {
        self.0.spectrum().filter(|_| self.1)
    }
}

#[test]
fn an_operator_from_outside_is_whitened_if_it_gives_a_spectrum() {
    let model = Model::shipped().unwrap();
    let image = Shape::new(1, 24, 24, 3);
    let blur = || SeparableBlur { kernel: AxisKernel::Gaussian(1.5), size: 9, boundary: Some(Boundary::Reflect) };
    let restored = |operator: Arc<dyn Operator>, method: &str| {
        let photo: Vec<f32> = (0..image.numel()).map(|i| (i as f32 * 0.1).sin() * 0.5).collect();
        let noise = Noise::Gaussian(0.025);
        let (measurement, _) = Measurement::simulate(operator.as_ref(), image, &photo, noise, 1).unwrap();
        let mut settings = Settings::parse(method, &model.network.prior()).unwrap();
        settings.steps = 4;
        let mut r = Restorer::new(&model, &operator, &settings, image, PlanOptions::default(), &Device::cpu()).unwrap();
        let item = Item::new(measurement, 1);
        r.restore(&[item], |_| ControlFlow::Continue(())).unwrap().remove(0).picture.values
    };
    let own = |with| Arc::new(OtherBlur(blur(), with)) as Arc<dyn Operator>;
    let (whitened, plain) = (restored(Arc::new(blur()), "dps"), restored(Arc::new(blur()), "dps:whiten=0"));
    assert_ne!(whitened, plain);
    assert_eq!(restored(own(true), "dps"), whitened, "with a spectrum");
    assert_eq!(restored(own(false), "dps"), plain, "without one");
}
