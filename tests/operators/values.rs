//! Values of operators against other software and against what they should do: resizing, blur and
//! edges against PyTorch, deepinv and kornia, JPEG against a codec, transforms against slow sums, the
//! VJPs of those that are not linear against differences.

use dmap::backend::Device;
use dmap::executor::Executor;
use dmap::graph::{Graph, PlanOptions, Shape, backward};
use dmap::image::Picture;
use dmap::noise::{Draw, NoiseKey, fill_normal};
use dmap::operator::{Observed, Operator, baseline, nearest_fill, parse_task};
use dmap::sampler::Measurer;
use dmap::weights::{Checkpoint, Weights, write_safetensors_with};
use std::f64::consts::TAU;
use std::path::Path;

/// A smooth picture with some noise, in [-1, 1].
fn picture(image: Shape) -> Vec<f32> {
    let mut values = vec![0.0; image.numel()];
    fill_normal(&NoiseKey { seed: 4, image: 0, step: 0, draw: Draw::Start }.to_words(), 0, &mut values);
    for (k, v) in values.iter_mut().enumerate() {
        let (row, column, c) = ((k / image.c / image.w) as f32, (k / image.c % image.w) as f32, (k % image.c) as f32);
        *v = 0.5 * (0.3 * row + 0.2 * column * (1.0 + c)).sin() + 0.2 * (0.7 * column - 0.5 * row).cos() + 0.05 * *v;
    }
    values
}

fn measured(operator: &dyn Operator, image: Shape, x: &[f32]) -> Vec<f32> {
    let state = operator.draw_state(image, 3).unwrap();
    Measurer::new(operator, image).unwrap().apply(x, &state).unwrap()
}

/// A^T g at x, of an operator without a state.
fn vjp(operator: &dyn Operator, image: Shape, x: &[f32], g: &[f32]) -> Vec<f32> {
    let mut graph = Graph::new();
    let input = graph.input("x", image);
    let y = operator.build(&mut graph, input, None).unwrap();
    let shape = graph.shape(y);
    let dy = graph.input("dy", shape);
    let dx = backward(&mut graph, y, dy, input).unwrap();
    graph.output(dx);
    let mut e = Executor::new(graph, &PlanOptions::default(), &Weights::none(), &Device::cpu()).unwrap();
    e.write(input, x).unwrap();
    e.write(dy, g).unwrap();
    e.run().unwrap();
    e.read(dx).unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |m, (a, b)| m.max((a - b).abs()))
}

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

/// Encoded and decoded by the codec of the `image` crate.
fn by_codec(x: &Picture, quality: u8, is_grey: bool) -> Picture {
    let rgb = x.to_rgb8();
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality);
    match is_grey {
        true => encoder.encode_image(&image::DynamicImage::ImageRgb8(rgb).to_luma8()).unwrap(),
        false => encoder.encode_image(&rgb).unwrap(),
    }
    let decoded = image::load_from_memory_with_format(&bytes, image::ImageFormat::Jpeg).unwrap();
    Picture::from_rgb8(&decoded.to_rgb8())
}

#[test]
fn jpeg_is_what_a_codec_makes_of_a_picture() {
    let rms = |a: &Picture, b: &[f32]| {
        let squares: f32 = a.values.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
        (squares / b.len() as f32).sqrt() * 127.5
    };
    for (quality, h, w) in [(10, 40, 56), (50, 35, 21), (90, 32, 32)] {
        let image = Shape::new(1, h, w, 3);
        let operator = parse_task(&format!("jpeg:quality={quality}")).unwrap();
        // Rounded to the 8 bits that a codec reads.
        let colour = Picture::from_rgb8(&Picture { width: w, height: h, values: picture(image) }.to_rgb8());
        let grey = Picture::from_rgb8(&colour.clone().grey().to_rgb8());
        // Codecs compute in whole numbers, so that values near the middle of a step are rounded
        // the other way: libjpeg differs from exact arithmetic by 0.3 to 0.9 of a level.
        let y = measured(operator.as_ref(), image, &grey.values);
        let whole = |p: &Picture| p.part(0, 0, w / 8 * 8, h / 8 * 8);
        let seen = whole(&Picture { values: y.clone(), ..grey.clone() }).values;
        let (difference, lost) = (rms(&whole(&by_codec(&grey, quality, true)), &seen), rms(&whole(&grey), &seen));
        // A block at the end of the image is that of an image that repeats its last row and column.
        let longer = Shape::new(1, h.next_multiple_of(16), w.next_multiple_of(16), 3);
        let at = |k: usize| ((k / 3 / longer.w).min(h - 1) * w + (k / 3 % longer.w).min(w - 1)) * 3 + k % 3;
        let continued: Vec<f32> = (0..longer.numel()).map(|k| grey.values[at(k)]).collect();
        let values = measured(operator.as_ref(), longer, &continued);
        let part = Picture { width: longer.w, height: longer.h, values }.part(0, 0, w, h);
        assert!(largest_difference(&part.values, &y) < 1e-6);
        assert!(difference < 1.2 && lost > 2.0 * difference, "grey at {quality}: {difference} of {lost} levels");
        // The codec keeps the colours of every pixel, so only the luma agrees as well.
        let luma = |v: &[f32]| v.chunks(3).map(|p| 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2]).collect::<Vec<f32>>();
        let y = measured(operator.as_ref(), image, &colour.values);
        let other = Picture { values: luma(&by_codec(&colour, quality, false).values), ..colour.clone() };
        let difference = rms(&other, &luma(&y));
        assert!(difference < 2.0, "colour at {quality}: {difference} levels");
    }
}

#[test]
fn jpeg_rounds_the_mean_of_a_block_around_128() {
    let image = Shape::new(1, 16, 16, 3);
    let operator = parse_task("jpeg:quality=10").unwrap();
    for level in [4.0, 60.0, 100.0, 127.0, 128.0, 180.0, 201.0] {
        // The first coefficient is eight times the mean less 128; its step is 16 times 5.
        let decoded = (128.0 + 80.0 * (8.0 * (level - 128.0) / 80.0f32).round() / 8.0).clamp(0.0, 255.0);
        let y = measured(operator.as_ref(), image, &vec![level / 127.5 - 1.0; image.numel()]);
        assert!(y.iter().all(|v| ((v + 1.0) * 127.5 - decoded).abs() < 1e-3), "{level}: {}, {decoded}", y[0]);
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
fn the_gradient_of_jpeg_passes_the_rounding() {
    // At the finest steps the rounding changes little, and A is nearly a linear map L: L^T g by the
    // VJP is what differences over many steps say.
    let image = Shape::new(1, 16, 16, 3);
    let operator = parse_task("jpeg:quality=100").unwrap();
    let x: Vec<f32> = picture(image).iter().map(|v| 0.5 * v).collect();
    let direction: Vec<f32> = (0..image.numel()).map(|k| 0.3 * ((k / 3) as f32 * 0.4).sin()).collect();
    let along = |s: f32| {
        let moved: Vec<f32> = x.iter().zip(&direction).map(|(x, d)| x + s * d).collect();
        measured(operator.as_ref(), image, &moved)
    };
    let (low, high) = (along(-1.0), along(1.0));
    let g: Vec<f32> = (0..low.len()).map(|k| ((k / 3) as f32 * 0.4).sin()).collect();
    let by_difference: f32 = low.iter().zip(&high).zip(&g).map(|((a, b), g)| (b - a) / 2.0 * g).sum();
    let by_vjp: f32 = vjp(operator.as_ref(), image, &x, &g).iter().zip(&direction).map(|(a, b)| a * b).sum();
    assert!((by_vjp / by_difference - 1.0).abs() < 0.01, "{by_vjp}, {by_difference}");
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
    assert!(matches!(operator.observed(&mask), Observed::Mask(m) if m.len() == x.len()));
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
    let refused = parse_task("motion-blur+inpaint-random").unwrap_err().to_string();
    assert!(refused.contains("and only one may"), "{refused}");
}

#[test]
fn a_matrix_from_a_file_multiplies_every_channel() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m+sr.mtx");
    let text = "%%MatrixMarket matrix coordinate real general\n% by hand\n3 6 4\n1 1 0.5\n1 6 -2\n3 2 1e-1\n3 2 0.4\n";
    std::fs::write(&file, text).unwrap();
    let operator = parse_task(&format!("matrix:file={},width=3,height=2", file.display())).unwrap();
    let image = Shape::new(1, 2, 3, 3);
    let x: Vec<f32> = (0..18).map(|k| k as f32 / 18.0).collect();
    let y = measured(operator.as_ref(), image, &x);
    let expected: Vec<f32> =
        (0..3).map(|c| 0.5 * x[c] - 2.0 * x[15 + c]).chain([0.0; 3]).chain((0..3).map(|c| 0.5 * x[3 + c])).collect();
    assert!(largest_difference(&y, &expected) < 1e-6, "{y:?}");
    assert_eq!(operator.measurement_shape(image), Shape::new(1, 1, 3, 3));
    let g: Vec<f32> = (0..9).map(|k| 1.0 - k as f32 * 0.3).collect();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    assert!((dot(&y, &g) - dot(&x, &vjp(operator.as_ref(), image, &x, &g))).abs() < 1e-5);
    std::fs::write(&file, "%%MatrixMarket matrix coordinate integer symmetric\n6 6 2\n2 2 3\n6 1 -1\n").unwrap();
    let symmetric = parse_task(&format!("matrix:file={},width=3,height=2", file.display())).unwrap();
    let expected: Vec<f32> = (0..18).map(|k| [-x[15 + k % 3], 3.0 * x[k], 0.0, 0.0, 0.0, -x[k % 3]][k / 3]).collect();
    assert!(largest_difference(&measured(symmetric.as_ref(), image, &x), &expected) < 1e-6);
    let bad = [
        ("%%MatrixMarket matrix array real general\n1 1\n1\n", "line 1: expected the header"),
        ("%%MatrixMarket matrix coordinate real general\n3 x 4\n", "line 2: expected the numbers"),
        ("%%MatrixMarket matrix coordinate real general\n3 6 1\n4 1 1\n", "line 3: entry (4, 1) lies outside"),
        ("%%MatrixMarket matrix coordinate real general\n3 6 1\n1 1 nan\n", "line 3: expected a row"),
        ("%%MatrixMarket matrix coordinate real general\n3 6 2\n1 1 1\n", "ends after 1 of 2 entries"),
        ("%%MatrixMarket matrix coordinate real general\n3 6 1\n1 1 1\n1 2 1\n", "line 4: more than the stated 1"),
        ("%%MatrixMarket matrix coordinate real general\n3 5 1\n1 1 1\n", "5 columns, an image of 3x2 6 pixels"),
        ("%%MatrixMarket matrix coordinate real general\n99999999999 6 1\n", "line 2: 99999999999 rows"),
        ("%%MatrixMarket matrix coordinate real general\n", "ends before the sizes"),
        ("%%MatrixMarket matrix coordinate real general\n3 6 1\n1 1 0\n", "the matrix is 0 everywhere"),
        (
            "%%MatrixMarket matrix coordinate pattern general\n3 6 0\n",
            "found '%%matrixmarket matrix coordinate pattern",
        ),
    ];
    for (text, expected) in bad {
        std::fs::write(&file, text).unwrap();
        let message = parse_task(&format!("matrix:file={},width=3,height=2", file.display())).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("m+sr.mtx"), "{message}");
    }
}

#[test]
fn a_network_from_files_convolves_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let (json, weights) = (folder.path().join("net.json"), folder.path().join("net.safetensors"));
    let of = |count: usize, by: usize| (0..count).map(|k| (k * by % 17) as f32 / 17.0 - 0.4).collect::<Vec<f32>>();
    let (head, head_bias, tail, tail_bias) = (of(4 * 3 * 9, 5), of(4, 3), of(4, 7), of(1, 1));
    let tensors = [
        ("head.weight", vec![4, 3, 3, 3], &head[..]),
        ("head.bias", vec![4], &head_bias),
        ("tail.weight", vec![1, 4, 1, 1], &tail),
        ("tail.bias", vec![1], &tail_bias),
    ];
    write_safetensors_with(&weights, &tensors, &[]).unwrap();
    let write = |layers: &str| {
        std::fs::write(&json, format!(r#"{{"weights": "net.safetensors", "layers": [{layers}]}}"#)).unwrap();
        parse_task(&format!("network:file={}", json.display()))
    };
    let operator = write(r#"{"conv": "head", "stride": 2}, {"act": "relu"}, {"conv": "tail"}"#).unwrap();
    let image = Shape::new(1, 8, 10, 3);
    let (x, y_shape) = (picture(image), Shape::new(1, 4, 5, 1));
    assert_eq!(operator.measurement_shape(image), y_shape);
    assert_eq!(operator.image_shape(y_shape), image);
    assert_eq!(operator.files(), [json.clone(), weights.clone()]);
    let y = measured(operator.as_ref(), image, &x);
    for (k, &value) in y.iter().enumerate() {
        let (row, column) = (2 * (k / 5), 2 * (k % 5));
        let mut sum = f64::from(tail_bias[0]);
        for o in 0..4 {
            let mut hidden = f64::from(head_bias[o]);
            for (a, b, c) in (0..27).map(|t| (t / 9, t / 3 % 3, t % 3)) {
                let (i, j) = (row + a, column + b);
                if (1..=8).contains(&i) && (1..=10).contains(&j) {
                    let weight = f64::from(head[((o * 3 + c) * 3 + a) * 3 + b]);
                    hidden += weight * f64::from(x[((i - 1) * 10 + j - 1) * 3 + c]);
                }
            }
            sum += f64::from(tail[o]) * hidden.max(0.0);
        }
        assert!((f64::from(value) - sum).abs() < 1e-5, "({row}, {column}): {value}, {sum}");
    }
    let g = vec![1.0; y.len()];
    assert!(vjp(operator.as_ref(), image, &x, &g).iter().any(|v| v.abs() > 0.01));
    for (layers, expected) in [
        (r#"{"conv": "tail"}"#, "tail.weight should have shape (any, 3, k, k)"),
        (r#"{"conv": "nose"}"#, "no tensor nose.weight"),
        (r#"{"conv": "head", "stride": 3}"#, "layer 1: stride 3; 1 and 2 are possible"),
        (r#"{"conv": "head"}"#, "gives 4 channels; a measurement has 1 or 3"),
        (r#"{"act": "tanh"}"#, "layer 1: act tanh; relu, silu, gelu and clamp are known"),
        (r#"{"act": "relu", "stride": 2}"#, "layer 1: only a conv has a stride"),
        (r#"{"norm": "group"}"#, "unknown field"),
        (
            r#"{"resize": "nearest"}, {"resize": "nearest"}, {"resize": "nearest"}, {"resize": "nearest"}, {"resize": "nearest"}"#,
            "layer 5: an image can be doubled 4 times",
        ),
        ("{}", "layer 1: give one of conv, act and resize"),
    ] {
        let message = write(layers).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}
