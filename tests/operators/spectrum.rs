//! The spectra of operators: `T A^T A x = power . T x` on random images, T by slow loops in f64,
//! the power of blurs at single frequencies, and the singular vectors of separable operators.

use crate::cosine::cosine_transform;
use crate::hartley::hartley_transform;
use crate::run::Reverse;
use dmap::graph::Shape;
use dmap::noise::{Draw, NoiseKey, fill_normal};
use dmap::operator::{OPERATORS, Operator, Spectrum, Transform, parse_task};
use dmap::ops::axis_filter::Taps;
use dmap::sampler::Measurer;
use std::f64::consts::PI;

const GAUSSIAN: &str = "gaussian-blur:size=9,sigma=1.5";
const MOTION: [&str; 2] = ["motion-blur:size=9", "motion-blur:size=15,length=0.8,spread=0.1"];

/// Tasks with a spectrum, and the relative error of `T A^T A x = power . T x` for white images of
/// 40x28 pixels. It is 0 but for blurs that reflect: a cosine meets their boundary, and of a path
/// without symmetry also its mirror image.
const SPECTRA: [(&str, f64); 17] = [
    ("sr2", 1e-6),
    ("sr4", 1e-6),
    ("denoise", 1e-6),
    ("inpaint-random", 1e-6),
    ("inpaint-box", 1e-6),
    (GAUSSIAN, 0.29),
    (MOTION[0], 0.26),
    (MOTION[1], 0.63),
    ("sr-average:factor=2", 1e-6),
    ("sr-bicubic:factor=4", 1e-6),
    ("compressed-sensing:block=4,kept=0.4", 1e-6),
    ("uniform-blur:size=5", 0.33),
    ("uniform-blur:size=5,boundary=circular", 1e-6),
    ("motion-blur:size=15,length=0.8,spread=0.1,boundary=circular", 1e-6),
    ("anisotropic-blur:size=9,sigma=3,angle=20,boundary=circular", 1e-6),
    ("anisotropic-blur:size=9,sigma=3,angle=20", 0.41),
    ("gaussian-blur:size=9,sigma=1.5,boundary=circular", 1e-6),
];

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// A^T y by the reverse walk.
fn transpose_of(operator: &dyn Operator, image: Shape, state: &[f32]) -> impl FnMut(&[f32]) -> Vec<f32> {
    // A linear operator has the same reverse at every x.
    let (mut reverse, x) = (Reverse::new(operator, image), vec![0.0; image.numel()]);
    move |y| reverse.run(&x, state, y).1
}

/// Coefficients of one channel of an image.
fn transformed(spectrum: &Spectrum<'_>, x: &[f32], image: Shape, channel: usize) -> Vec<f64> {
    let values = || x.iter().skip(channel).step_by(image.c).map(|&v| f64::from(v)).collect::<Vec<f64>>();
    match spectrum.transform() {
        Transform::Cosine => cosine_transform(x, image, channel),
        Transform::Pixels => values(),
        Transform::Hartley => hartley_transform(x, image, channel),
        Transform::Axes => {
            let [rows, columns] = spectrum.taps(image).unwrap();
            along_axes(&rows, &columns, &values(), image.w)
        }
        other => panic!("{other:?} has no slow loop here"),
    }
}

/// Two maps in f64, one along the height and one along the width, of an image of `width` columns.
fn along_axes(rows: &Taps, columns: &Taps, x: &[f64], width: usize) -> Vec<f64> {
    let sum = |taps: &[(usize, f32)], at: &dyn Fn(usize) -> f64| -> f64 {
        taps.iter().map(|&(j, w)| f64::from(w) * at(j)).sum()
    };
    let across: Vec<Vec<f64>> =
        x.chunks(width).map(|row| columns.rows.iter().map(|taps| sum(taps, &|j| row[j])).collect()).collect();
    let of_row = |taps: &Vec<(usize, f32)>| (0..columns.rows.len()).map(|l| sum(taps, &|i| across[i][l])).collect();
    rows.rows.iter().flat_map(|taps| -> Vec<f64> { of_row(taps) }).collect()
}

/// || T A^T A x - power . T x || / || T A^T A x || over the pairs (T A^T A x, T x).
fn error(pairs: &[(Vec<f64>, Vec<f64>)], power: &[f64]) -> f64 {
    let (mut wrong, mut all) = (0.0, 0.0);
    for (seen, x) in pairs {
        for ((s, x), p) in seen.iter().zip(x).zip(power) {
            wrong += (s - p * x).powi(2);
            all += s * s;
        }
    }
    (wrong / all).sqrt()
}

#[test]
fn a_spectrum_times_the_transform_of_an_image_is_that_of_its_normal_operator() {
    let exact = SPECTRA.into_iter().filter(|s| s.1 == 1e-6 && s.0.contains("circular")).map(|s| (s, 31, 23));
    for ((task, stated), h, w) in SPECTRA.into_iter().map(|s| (s, 40, 28)).chain(exact) {
        let image = Shape::new(1, h, w, 3);
        let operator = parse_task(task).unwrap();
        let state = operator.draw_state(image, 4).unwrap();
        let spectrum = operator.spectrum().unwrap();
        let power = spectrum.power(image, &state).unwrap();
        let mut measurer = Measurer::new(operator.as_ref(), image).unwrap();
        let mut transpose = transpose_of(operator.as_ref(), image, &state);
        let mut pairs = Vec::new();
        for seed in 0..4 {
            let mut x = vec![0.0; image.numel()];
            fill_normal(&NoiseKey { seed, image: 0, step: 0, draw: Draw::Start }.to_words(), 0, &mut x);
            let seen = transpose(&measurer.apply(&x, &state).unwrap());
            let of = |values: &[f32], c| transformed(&spectrum, values, image, c);
            pairs.extend((0..3).map(|c| (of(&seen, c), of(&x, c))));
        }
        let right = error(&pairs, &power);
        assert!(right <= stated, "{task}: relative error {right}, stated {stated}");
        // What a mistake in the power would do: it goes beyond the stated error.
        let width = spectrum.taps(image).map_or(image.w, |taps| taps[1].rows.len());
        let height = power.len() / width;
        let at = |f: &dyn Fn(usize, usize) -> usize| -> Vec<f64> {
            (0..power.len()).map(|p| power[f(p / width, p % width)]).collect()
        };
        let mistakes = [
            ("a squared power", power.iter().map(|p| p * p).collect()),
            ("a root of the power", power.iter().map(|p| p.sqrt()).collect()),
            ("mirrored rows", at(&|k, l| (height - 1 - k) * width + l)),
            ("mirrored columns", at(&|k, l| k * width + width - 1 - l)),
        ];
        let is_one = |wrong: &[f64]| wrong.iter().zip(&power).any(|(a, b)| (a - b).abs() > 1e-4);
        for (what, wrong) in mistakes.into_iter().filter(|m| is_one(&m.1)) {
            let found = error(&pairs, &wrong);
            assert!(found > 1.1 * stated, "{task}: {what} gives a relative error of {found}, stated {stated}");
        }
    }
}

#[test]
fn every_operator_with_a_spectrum_is_tested_here() {
    for row in OPERATORS {
        // inpaint-mask differs from inpaint-random only in where its mask is from.
        let task = match row.name {
            "sr" => "sr4",
            "inpaint-mask" => "inpaint-random",
            // These have none, and need a file.
            "matrix" | "network" | "nonlinear-blur" => continue,
            name => name,
        };
        let has_spectrum = parse_task(task).unwrap().spectrum().is_some();
        assert_eq!(SPECTRA.iter().any(|s| s.0.split(':').next() == Some(task)), has_spectrum, "{task}");
    }
}

#[test]
fn singular_vectors_of_separable_operators_are_exact() {
    for (task, h, w) in [
        ("sr2", 40, 28),
        ("sr4", 40, 28),
        ("sr3", 31, 22),
        ("sr-average:factor=3", 31, 22),
        ("uniform-blur:size=5", 31, 22),
        ("gaussian-blur:size=9,sigma=1.5,boundary=valid", 31, 22),
        (GAUSSIAN, 40, 28),
        ("gaussian-blur:sigma=3", 70, 64),
    ] {
        let image = Shape::new(1, h, w, 1);
        let operator = parse_task(task).unwrap();
        let spectrum = operator.singular_spectrum().unwrap();
        assert_eq!(spectrum.transform(), Transform::Axes, "{task}");
        let (power, [rows, columns]) = (spectrum.power(image, &[]).unwrap(), spectrum.taps(image).unwrap());
        for taps in [&rows, &columns] {
            for (k, a) in taps.rows.iter().enumerate() {
                for (l, b) in taps.rows.iter().enumerate() {
                    let product: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a.1) * f64::from(b.1)).sum();
                    assert!((product - f64::from(u8::from(k == l))).abs() < 1e-6, "{task}: rows {k} and {l}");
                }
            }
        }
        let (in_order, width) = (|p: &[f64]| p.windows(2).all(|p| p[0] >= p[1]), columns.rows.len());
        assert!(power.chunks(width).all(in_order), "{task}: the largest first");
        assert!(in_order(&power.iter().step_by(width).copied().collect::<Vec<_>>()), "{task}: the largest first");
        // x is a part that T keeps and a rest: A^T A scales the coefficients of the one, and makes
        // nothing of the other.
        let mut x = vec![0.0; image.numel()];
        fill_normal(&NoiseKey { seed: 9, image: 0, step: 0, draw: Draw::Start }.to_words(), 0, &mut x);
        let wide: Vec<f64> = x.iter().map(|&v| v.into()).collect();
        let kept = along_axes(&rows, &columns, &wide, w);
        let part = along_axes(&rows.transposed(), &columns.transposed(), &kept, width);
        let rest: Vec<f32> = wide.iter().zip(&part).map(|(x, p)| (x - p) as f32).collect();
        let part: Vec<f32> = part.into_iter().map(|v| v as f32).collect();
        let mut measurer = Measurer::new(operator.as_ref(), image).unwrap();
        let mut transpose = transpose_of(operator.as_ref(), image, &[]);
        let mut normal = |x: &[f32]| transpose(&measurer.apply(x, &[]).unwrap());
        let (of_part, of_rest) = (normal(&part), normal(&rest));
        let expected: Vec<f64> = kept.iter().zip(&power).map(|(c, p)| c * p).collect();
        let expected = along_axes(&rows.transposed(), &columns.transposed(), &expected, width);
        let error = expected.iter().zip(&of_part).map(|(e, &f)| (e - f64::from(f)).powi(2)).sum::<f64>().sqrt();
        let norm = dot(&x, &x).sqrt();
        assert!(error < 1e-6 * norm, "{task}: error {error:.1e} of {norm}");
        assert!(dot(&of_rest, &of_rest).sqrt() < 1e-6 * norm, "{task}: {:.1e}", dot(&of_rest, &of_rest).sqrt());
    }
}

#[test]
fn a_spectrum_of_another_length_or_with_values_that_are_no_squares_is_refused() {
    let image = Shape::new(1, 3, 2, 3);
    let message = |values: &[f64]| {
        let spectrum = Spectrum::pixels(|_, _| values.to_vec());
        spectrum.power(image, &[]).unwrap_err().to_string()
    };
    assert!(message(&[1.0; 5]).contains("5 values for an image of 2x3 pixels"));
    for wrong in [-1.0, f64::NAN, f64::INFINITY] {
        let text = message(&[1.0, 1.0, 1.0, wrong, 1.0, 1.0]);
        assert!(text.contains("at coefficient (1, 1)"), "{text}");
    }
}

#[test]
fn the_cosine_transform_is_orthonormal() {
    for n in [1, 2, 7, 32] {
        let taps = Taps::cosine_transform(n);
        for (k, a) in taps.rows.iter().enumerate() {
            for (l, b) in taps.rows.iter().enumerate() {
                let product: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a.1) * f64::from(b.1)).sum();
                assert!((product - f64::from(u8::from(k == l))).abs() < 1e-6, "{n}: rows {k} and {l}");
            }
        }
    }
}

const FREQUENCIES: [(usize, usize); 7] = [(0, 1), (3, 0), (5, 7), (12, 2), (2, 15), (20, 20), (47, 39)];

#[test]
fn the_power_of_a_separable_blur_is_what_its_adjoint_leaves_of_a_cosine() {
    let image = Shape::new(1, 48, 40, 1);
    let operator = parse_task(GAUSSIAN).unwrap();
    let power = operator.spectrum().unwrap().power(image, &[]).unwrap();
    let (rows, columns) = (Taps::cosine_transform(image.h), Taps::cosine_transform(image.w));
    let mut transpose = transpose_of(operator.as_ref(), image, &[]);
    for (k, l) in FREQUENCIES {
        let wave: Vec<f32> = rows.rows[k].iter().flat_map(|r| columns.rows[l].iter().map(|c| r.1 * c.1)).collect();
        let left = transpose(&wave);
        let (left, stated) = (dot(&left, &left), power[k * image.w + l]);
        assert!((left - stated).abs() < 1e-5, "({k}, {l}): {left}, stated {stated}");
    }
}

#[test]
fn the_power_of_a_kernel_is_what_it_leaves_of_plane_waves() {
    let image = Shape::new(1, 48, 40, 1);
    for task in MOTION {
        let operator = parse_task(task).unwrap();
        let state = operator.draw_state(image, 4).unwrap();
        let power = operator.spectrum().unwrap().power(image, &state).unwrap();
        let mut measurer = Measurer::new(operator.as_ref(), image).unwrap();
        for (k, l) in FREQUENCIES {
            // Far from the boundary a wave keeps its form: the sum of the squares of both its
            // phases is |A|^2 anywhere.
            let mut left = |sign: f64, phase: f64| {
                let angle = |p: usize| ((p / image.w * k) as f64 / 48.0 + sign * (p % image.w * l) as f64 / 40.0) * PI;
                let wave: Vec<f32> = (0..image.numel()).map(|p| (angle(p) + phase).cos() as f32).collect();
                f64::from(measurer.apply(&wave, &state).unwrap()[24 * image.w + 20]).powi(2)
            };
            let both = [1.0, -1.0].map(|sign| left(sign, 0.0) + left(sign, PI / 2.0));
            let (mean, stated) = ((both[0] + both[1]) / 2.0, power[k * image.w + l]);
            assert!((mean - stated).abs() < 1e-4, "{task} at ({k}, {l}): {mean}, stated {stated}");
        }
    }
}
