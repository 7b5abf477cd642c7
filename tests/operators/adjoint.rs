//! <A x, y> = <x, A^T y> for every linear row of the operator table, A^T by the reverse walk, at sizes that meet the
//! boundary in every way: odd, not square, not divisible, smaller than a kernel's reach.

use dmap::backend::Device;
use dmap::executor::Executor;
use dmap::graph::{Graph, PlanOptions, Shape, backward};
use dmap::noise::{Draw, NoiseKey, fill_normal};
use dmap::operator::{AxisKernel, OPERATORS, OperatorRow, SeparableBlur, parse_task};
use dmap::ops::filter2d::Boundary;
use dmap::weights::Weights;

const TASKS: [&str; 31] = [
    "sr2",
    "sr3",
    "sr4",
    "sr8",
    "gaussian-blur",
    "gaussian-blur:size=9,sigma=1.5",
    "motion-blur:size=21,length=0.9,spread=2",
    "motion-blur:size=33",
    "inpaint-box",
    "inpaint-random",
    "inpaint-random:missing=0.2",
    "denoise",
    "sr-average:factor=3",
    "sr-bicubic:factor=4",
    "sr-bicubic:factor=2,like=pytorch-aliased",
    "sr-bicubic:factor=3,like=matlab",
    "gaussian-blur:size=9,sigma=1.5,boundary=circular",
    "uniform-blur",
    "uniform-blur:size=5,boundary=valid",
    "gaussian-blur:size=9,sigma=1.5,boundary=valid",
    "sr-bicubic:factor=3,like=deepinv",
    "uniform-blur:size=5,boundary=circular",
    "anisotropic-blur:size=15,sigma=4,across=0.7,angle=30",
    "anisotropic-blur:boundary=circular",
    "motion-blur:size=15,boundary=circular",
    "colorize",
    "colorize:weights=mean",
    "demosaic",
    "compressed-sensing:block=4",
    "gaussian-blur:size=9,sigma=1.5+sr2+inpaint-random",
    "motion-blur:size=9+inpaint-random+inpaint-box",
];
/// Operators that are not linear; `values` tests their VJPs.
const NOT_LINEAR: [&str; 4] = ["hdr", "jpeg", "phase-retrieval", "edge"];
const SIZES: [(usize, usize); 5] = [(32, 32), (33, 47), (64, 20), (18, 29), (41, 17)];

fn normal(seed: u64, count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count];
    fill_normal(&NoiseKey { seed, image: 0, step: 0, draw: Draw::Start }.to_words(), 0, &mut values);
    values
}

#[test]
fn the_reverse_walk_is_the_adjoint_of_every_linear_operator() {
    for task in TASKS {
        let operator = parse_task(task).unwrap();
        assert!(operator.is_linear());
        for (h, w) in SIZES {
            let shape = Shape::new(2, h, w, 3);
            if operator.check(shape).is_err() {
                continue;
            }
            let mut g = Graph::new();
            let x = g.input("x", shape);
            let state = operator.state_shape(shape).map(|s| (g.input("state", s), s));
            let ax = operator.build(&mut g, x, state.map(|s| s.0)).unwrap();
            let y_shape = g.shape(ax);
            assert_eq!(y_shape, operator.measurement_shape(shape), "{task}");
            let y = g.input("y", y_shape);
            let aty = backward(&mut g, ax, y, x).unwrap();
            g.output(ax);
            g.output(aty);
            let mut e = Executor::new(g, &PlanOptions::default(), &Weights::none(), &Device::cpu()).unwrap();
            e.set_poison(true);
            let (xv, yv) = (normal(1, shape.numel()), normal(2, y_shape.numel()));
            e.write(x, &xv).unwrap();
            e.write(y, &yv).unwrap();
            if let Some((id, s)) = state {
                // Every item of a batch has a state of its own.
                let items = (0..2).flat_map(|k| operator.draw_state(Shape { n: 1, ..shape }, 5 + k).unwrap());
                let values: Vec<f32> = items.collect();
                assert_eq!(values.len(), s.numel());
                e.write(id, &values).unwrap();
            }
            e.run().unwrap();
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
            let norm = |a: &[f32]| dot(a, a).sqrt();
            let (axv, atyv) = (e.read(ax).unwrap(), e.read(aty).unwrap());
            let difference = (dot(&axv, &yv) - dot(&xv, &atyv)).abs() / (norm(&axv) * norm(&yv));
            assert!(difference < 1e-6, "{task} at {h}x{w}: {difference}");
        }
    }
}

#[test]
fn every_row_of_the_table_is_tested_here() {
    for OperatorRow { name, .. } in OPERATORS {
        // inpaint-mask differs from inpaint-random only in where its mask is from; `from_files`
        // tests those that need a file.
        let is_elsewhere =
            NOT_LINEAR.contains(name) || ["inpaint-mask", "matrix", "network", "nonlinear-blur"].contains(name);
        assert!(is_elsewhere || TASKS.iter().any(|t| t.starts_with(name)), "add {name} to TASKS");
    }
}

#[test]
fn resizing_and_blur_keep_constants_and_masks_are_projections() {
    for task in [
        "sr4",
        "sr3",
        "sr-average",
        "sr-bicubic",
        "sr-bicubic:like=pytorch-aliased",
        "gaussian-blur",
        "uniform-blur:boundary=circular",
        "anisotropic-blur",
        "motion-blur:size=21",
        "jpeg",
    ] {
        let operator = parse_task(task).unwrap();
        let shape = Shape::new(1, 37, 30, 3);
        let mut measurer = dmap::sampler::Measurer::new(operator.as_ref(), shape).unwrap();
        let state = operator.draw_state(shape, 3).unwrap();
        let y = measurer.apply(&vec![0.37; shape.numel()], &state).unwrap();
        // JPEG rounds a mean to an eighth of a step.
        let most = if task == "jpeg" { 0.03 } else { 2e-6 };
        assert!(y.iter().all(|v| (v - 0.37).abs() < most), "{task}");
    }
    let operator = parse_task("inpaint-random").unwrap();
    let shape = Shape::new(1, 20, 30, 3);
    let mut measurer = dmap::sampler::Measurer::new(operator.as_ref(), shape).unwrap();
    let state = operator.draw_state(shape, 3).unwrap();
    assert_eq!(state.iter().filter(|&&m| m == 0.0).count(), 420, "exactly 70 % of 600 pixels");
    let once = measurer.apply(&normal(9, shape.numel()), &state).unwrap();
    assert_eq!(measurer.apply(&once, &state).unwrap(), once);
}

#[test]
fn cubic_taps_are_those_of_the_published_resizer() {
    // Half-sample symmetric boundary, four taps times the factor, weights that sum to one.
    let taps = dmap::operator::cubic_taps(32, 8, 0.25);
    assert!(taps.rows[3].len() == 16 && (taps.rows[3].iter().map(|t| t.1).sum::<f32>() - 1.0).abs() < 1e-6);
    // Output 3 stands at (3 + 1/2) * 4 - 1/2 = 13.5: symmetric weights around it.
    let weight = |j: usize| taps.rows[3].iter().find(|t| t.0 == j).map_or(0.0, |t| t.1);
    assert!((weight(13) - weight(14)).abs() < 1e-7 && (weight(10) - weight(17)).abs() < 1e-7);
    // k(0.125) / sum over the taps; the sum is 1/0.25 up to the kernel's ripple, which is 0 for
    // this phase.
    let k = |x: f64| (1.5 * x - 2.5) * x * x + 1.0;
    assert!((f64::from(weight(13)) - 0.25 * k(0.125)).abs() < 1e-4);
    // At the edge the mirrored taps fall onto the first pixels.
    assert!(taps.rows[0].iter().all(|t| t.0 < 10) && taps.rows[0].len() < 16);
}

#[test]
fn motion_kernels_sum_to_one_and_follow_their_seed() {
    let kernel = |seed| dmap::operator::motion_kernel(61, 0.5, 0.6, seed);
    assert!((kernel(1).iter().sum::<f32>() - 1.0).abs() < 1e-4);
    assert_eq!(kernel(1), kernel(1));
    assert_ne!(kernel(1), kernel(2));
    // It blurs: no single value holds much of the mass, and it is not spread over the whole square.
    let k = kernel(1);
    assert!(k.iter().all(|&v| v < 0.2) && k.iter().filter(|&&v| v > 0.0).count() < 61 * 61 / 5);
}

#[test]
fn gaussian_blur_is_cut_at_four_sigma_as_published() {
    let kernel = AxisKernel::Gaussian(3.0);
    let taps = SeparableBlur { kernel, size: 61, boundary: Some(Boundary::Reflect) }.map(100);
    assert_eq!(taps.rows[50].len(), 25);
    // Whole-sample reflection: position 1 left of the edge is pixel 1, so pixel 0 counts once.
    let edge: Vec<_> = taps.rows[0].iter().map(|t| t.0).collect();
    assert_eq!(edge.len(), 13);
}
