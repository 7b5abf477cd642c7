//! Values of operators against other software and against what they should do: resizing, blur and
//! edges against PyTorch, deepinv and kornia, transforms against slow sums, the VJPs of those that
//! are not linear against differences.

use crate::run::{largest_difference, measured, picture, vjp};
use dmap::graph::Shape;
use dmap::image::Picture;
use dmap::operator::{Observed, StateOrigin, baseline, nearest_fill, parse_task};
use dmap::weights::Checkpoint;
use std::f64::consts::TAU;
use std::path::Path;

#[test]
fn resizing_blur_and_edges_are_those_of_pytorch_deepinv_and_kornia() {
    let file =
        Checkpoint::open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/operators.safetensors"))).unwrap();
    let x = file.values("x").unwrap();
    let mut seen = 0;
    for task in file.tensors.keys().filter(|name| *name != "x") {
        let operator = parse_task(task).unwrap();
        // The reference leaves out what a factor leaves over.
        let factor = [2, 3, 4].into_iter().find(|f| task.contains(&format!("factor={f}"))).unwrap_or(1);
        let whole = Picture { width: 35, height: 26, values: x.clone() };
        let part = whole.part(0, 0, 35 / factor * factor, 26 / factor * factor);
        let image = Shape::new(1, part.height, part.width, 3);
        let (y, expected) = (measured(operator.as_ref(), image, &part.values), file.values(task).unwrap());
        let extents = operator.measurement_shape(image);
        assert_eq!(file.tensors[task].shape, [1, extents.h, extents.w, extents.c], "{task}");
        assert_eq!(operator.image_shape(extents), image, "{task}");
        let difference = largest_difference(&y, &expected);
        assert!(difference < 2e-6, "{task}: {difference}");
        seen += 1;
    }
    assert_eq!(seen, 9);
}

#[test]
fn the_moduli_are_those_of_a_slow_transform_and_tell_nothing_of_what_is_equivalent() {
    for (h, w, oversampling) in [(8, 12, 2.0), (9, 7, 2.0), (10, 6, 1.5)] {
        let (image, task) = (Shape::new(1, h, w, 3), format!("phase-retrieval:oversampling={oversampling}"));
        let (operator, x) = (parse_task(&task).unwrap(), picture(image));
        let (y, shape) = (measured(operator.as_ref(), image, &x), operator.measurement_shape(image));
        assert_eq!(operator.image_shape(shape), image, "{task}");
        // DPS adds a quarter of the side, rounded down, at each end where it oversamples by 2.
        let border = |n: usize| (oversampling / 8.0 * n as f64) as usize;
        assert_eq!((shape.h, shape.w), (h + 2 * border(h), w + 2 * border(w)));
        assert!(oversampling != 2.0 || border(8) == 2 && border(12) == 3);
        for (k, &value) in y.iter().enumerate() {
            let (c, column, row) = (k % 3, k / 3 % shape.w, k / 3 / shape.w);
            let frequency = [row as f64 - (shape.h / 2) as f64, column as f64 - (shape.w / 2) as f64];
            let (mut re, mut im) = (0.0, 0.0);
            for (i, j) in (0..h).flat_map(|i| (0..w).map(move |j| (i, j))) {
                let turn = frequency[0] * i as f64 / shape.h as f64 + frequency[1] * j as f64 / shape.w as f64;
                let v = f64::from(x[(i * w + j) * 3 + c]);
                re += v * (TAU * turn).cos();
                im += v * (TAU * turn).sin();
            }
            let modulus = re.hypot(im) / ((shape.h * shape.w) as f64).sqrt();
            assert!((f64::from(value) - modulus).abs() < 1e-5, "{task} at ({row}, {column}): {value}, {modulus}");
        }
        let truth = Picture { width: w, height: h, values: x };
        let others = operator.equivalents(&truth);
        assert_eq!(others.len(), 3);
        for (what, other) in others {
            assert!(largest_difference(&other.values, &truth.values) > 0.1, "{what}");
            assert!(largest_difference(&measured(operator.as_ref(), image, &other.values), &y) < 1e-5, "{what}");
        }
    }
}

#[test]
fn vjps_of_operators_that_are_not_linear_are_their_derivatives() {
    let image = Shape::new(1, 20, 18, 3);
    let x = picture(image);
    // A change of all pixels that is small enough for the edges to stay where they are.
    let direction: Vec<f32> = (0..image.numel()).map(|k| ((k * 37 % 101) as f32 / 50.0 - 1.0) * 1e-4).collect();
    let moved = |sign: f32| x.iter().zip(&direction).map(|(x, d)| x + sign * d).collect::<Vec<f32>>();
    for task in ["hdr", "hdr:gain=3", "phase-retrieval", "edge", "phase-retrieval:oversampling=0+hdr:gain=1.5"] {
        let operator = parse_task(task).unwrap();
        assert!(!operator.is_linear());
        let y = measured(operator.as_ref(), image, &x);
        // The change of the measurement itself, so that the derivative along it is not small.
        let [ahead, back] = [1.0, -1.0].map(|sign| measured(operator.as_ref(), image, &moved(sign)));
        let g: Vec<f32> = ahead.iter().zip(&back).map(|(a, b)| 1e4 * (a - b)).collect();
        assert_eq!(g.len(), y.len());
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let by_difference = (dot(&ahead, &g) - dot(&back, &g)) / 2.0;
        let by_vjp = dot(&vjp(operator.as_ref(), image, &x, &g), &direction);
        assert!((by_vjp / by_difference - 1.0).abs() < 0.02, "{task}: {by_difference}, {by_vjp}");
    }
}

#[test]
fn a_measurement_without_a_border_is_shown_in_the_middle() {
    let (operator, image) = (parse_task("uniform-blur:size=5,boundary=valid").unwrap(), Shape::new(1, 9, 8, 3));
    assert_eq!(operator.measurement_shape(image), Shape::new(1, 5, 4, 3));
    let y: Vec<f32> = (0..5 * 4 * 3).map(|k| k as f32 / 60.0).collect();
    let (name, naive) = baseline(operator.as_ref(), &y, &[], image);
    assert_eq!((name, naive.width, naive.height), ("measurement", 8, 9));
    for (k, v) in naive.values.iter().enumerate() {
        let (row, column) = ((k / 24).saturating_sub(2).min(4), (k / 3 % 8).saturating_sub(2).min(3));
        assert_eq!(*v, y[(row * 4 + column) * 3 + k % 3], "value {k}");
    }
}

#[test]
fn compressed_sensing_keeps_norm_and_share_and_the_mean_of_every_block() {
    let image = Shape::new(1, 32, 64, 3);
    let x = picture(image);
    let all = parse_task("compressed-sensing:block=16,kept=1").unwrap();
    let square = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    let y = measured(all.as_ref(), image, &x);
    assert!((square(&y) / square(&x) - 1.0).abs() < 1e-5);
    let (name, back) = baseline(all.as_ref(), &y, &all.draw_state(image, 3).unwrap(), image);
    assert!(name == "inverse transform" && largest_difference(&back.values, &x) < 1e-5);
    let quarter = parse_task("compressed-sensing:block=16,kept=0.25").unwrap();
    let mask = quarter.draw_state(image, 3).unwrap();
    assert_eq!(mask.iter().filter(|&&m| m == 1.0).count(), 32 * 64 / 4);
    let y = measured(quarter.as_ref(), image, &x);
    let mean: f32 = (0..16 * 16).map(|k| x[(k / 16 * 64 + k % 16) * 3]).sum::<f32>() / 256.0;
    assert!(mask[0] == 1.0 && (y[0] - 16.0 * mean).abs() < 1e-4, "{} and {mean}", y[0]);
    assert_ne!(mask, quarter.draw_state(image, 4).unwrap());
}

#[test]
fn every_value_of_a_mosaic_is_seen_once_in_its_colour_and_filled_from_its_channel() {
    let image = Shape::new(1, 6, 8, 3);
    let (operator, x) = (parse_task("demosaic").unwrap(), picture(image));
    let mask = operator.draw_state(image, 0).unwrap();
    // Blue at (even, even), green beside it, red at (odd, odd), as deepinv has it.
    assert_eq!((&mask[..6], &mask[8 * 3 + 3..][..3]), (&[0.0, 0.0, 1.0, 0.0, 1.0, 0.0][..], &[1.0, 0.0, 0.0][..]));
    let count = |c: usize| mask.iter().skip(c).step_by(3).filter(|&&m| m == 1.0).count();
    assert_eq!([count(0), count(1), count(2)], [12, 24, 12]);
    assert!(mask.chunks(3).all(|p| p.iter().sum::<f32>() == 1.0));
    let y = measured(operator.as_ref(), image, &x);
    assert!(matches!(operator.observed(image, &mask), Observed::Mask(m) if m.len() == x.len()));
    let seen = Picture { width: 8, height: 6, values: y };
    let filled = nearest_fill(&seen, &mask);
    for (k, v) in filled.values.iter().enumerate() {
        let is_of_channel = seen.values.iter().skip(k % 3).step_by(3).any(|s| s == v && *s != 0.0);
        assert!(is_of_channel && (mask[k] == 0.0 || *v == x[k]), "value {k}: {v}");
    }
}

#[test]
fn a_composition_is_one_operator_after_the_other() {
    let image = Shape::new(1, 24, 32, 3);
    let x = picture(image);
    let y = measured(parse_task("gaussian-blur:sigma=1.5+sr4+colorize").unwrap().as_ref(), image, &x);
    let mut by_hand = x;
    let mut shape = image;
    for task in ["gaussian-blur:sigma=1.5", "sr4", "colorize"] {
        let operator = parse_task(task).unwrap();
        by_hand = measured(operator.as_ref(), shape, &by_hand);
        shape = operator.measurement_shape(shape);
    }
    assert_eq!(y, by_hand);
    let both = parse_task("motion-blur:size=9+sr2").unwrap();
    assert_eq!(both.task(), "motion-blur:size=9,length=0.5,spread=0.6+sr2");
    assert_eq!(both.image_shape(both.measurement_shape(image)), image);
    let state = both.draw_state(image, 3).unwrap();
    assert_eq!(both.state_shape(image).unwrap().numel(), state.len());
    let (name, naive) = baseline(both.as_ref(), &vec![0.25; 12 * 16 * 3], &state, image);
    assert!(name == "measurement" && naive.values.iter().all(|v| (v - 0.25).abs() < 1e-5), "{name}");
}

#[test]
fn a_composition_of_two_with_a_state_has_both() {
    let image = Shape::new(1, 24, 32, 3);
    let x = picture(image);
    let tasks = ["motion-blur:size=9", "sr2", "inpaint-random:missing=0.4", "inpaint-box"];
    let both = parse_task(&tasks.join("+")).unwrap();
    let (mut by_hand, mut shape, mut states) = (x.clone(), image, Vec::new());
    for task in tasks {
        let operator = parse_task(task).unwrap();
        by_hand = measured(operator.as_ref(), shape, &by_hand);
        states.extend(operator.draw_state(shape, 3).unwrap());
        shape = operator.measurement_shape(shape);
    }
    let state = both.draw_state(image, 3).unwrap();
    assert_eq!(state, states);
    assert_eq!(both.state_shape(image).unwrap().numel(), 81 + 2 * 12 * 16);
    assert_eq!(measured(both.as_ref(), image, &x), by_hand);
    // The last mask says what was measured.
    let Observed::Mask(mask) = both.observed(image, &state) else { panic!("a mask") };
    assert_eq!(mask, &states[81 + 12 * 16..]);
    assert!(both.check_state(image, &state).is_ok());
    for at in [0, 81, 81 + 12 * 16] {
        let mut wrong = state.clone();
        wrong[at] = f32::NAN;
        assert!(both.check_state(image, &wrong).is_err(), "value {at}");
    }
    assert_eq!(both.state_origin(), StateOrigin::Drawn { given: None });

    // The naive restoration of a blur is what it measured, here with the mask's holes filled.
    let both = parse_task("motion-blur:size=9+inpaint-random:missing=0.4").unwrap();
    let (y, state) = (measured(both.as_ref(), image, &x), both.draw_state(image, 3).unwrap());
    let mask = parse_task("inpaint-random:missing=0.4").unwrap();
    let expected = baseline(mask.as_ref(), &y, &state[81..], image).1;
    assert!(baseline(both.as_ref(), &y, &state, image).1 == expected);
}
