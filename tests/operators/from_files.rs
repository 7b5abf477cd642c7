//! Operators that the user gives as files: a matrix, a network, a checkpoint of blurs.

use crate::run::{Reverse, largest_difference, measured, picture, vjp};
use dmap::graph::Shape;
use dmap::operator::parse_task;
use dmap::weights::{Checkpoint, write_safetensors_with};
use std::path::Path;

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

fn data(name: &str) -> String {
    format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn nonlinear_blur_is_that_of_pytorch() {
    let task = format!("nonlinear-blur:file={}", data("nonlinear_blur.pth"));
    let operator = parse_task(&task).unwrap();
    assert_eq!(operator.task(), format!("{task},scale=1.2"));
    let image = Shape::new(1, 128, 256, 3);
    let value = |k: usize| {
        let (row, column, c) = ((k / 3 / image.w) as f64, (k / 3 % image.w) as f64, (k % 3 + 1) as f64);
        let wave = (0.11 * row + 0.07 * c * column).sin() + 0.4 * (0.3 * column - 0.2 * row).cos();
        (0.8 * wave).clamp(-1.0, 1.0) as f32
    };
    let x: Vec<f32> = (0..image.numel()).map(value).collect();
    let file = Checkpoint::open(Path::new(&data("nonlinear_blur.safetensors"))).unwrap();
    let kernel = file.values("kernel").unwrap();
    assert_eq!(operator.state_shape(image), Some(Shape::new(1, 1, 2, 3)));
    let probe: Vec<f32> = (0..image.numel()).map(|k| (0.05 * k as f64).cos() as f32).collect();
    let (y, dx) = Reverse::new(operator.as_ref(), image).run(&x, &kernel, &probe);
    let some = |all: &[f32]| -> Vec<f32> {
        let pixels = (0..image.h).step_by(5).flat_map(|i| (0..image.w).step_by(5).map(move |j| i * 256 + j));
        pixels.flat_map(|p| all[3 * p..][..3].to_vec()).collect()
    };
    for (name, found, most) in [("y", y, 2e-6), ("dx", dx, 1e-5)] {
        let (found, expected) = (some(&found), file.values(name).unwrap());
        let size = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
        let difference = largest_difference(&found, &expected) / size;
        assert!(difference < most, "{name}: {difference}");
    }
}

#[test]
fn nonlinear_blur_has_a_kernel_for_each_seed_and_refuses_other_files_and_sizes() {
    let task = format!("nonlinear-blur:file={}", data("nonlinear_blur.pth"));
    let operator = parse_task(&format!("{task},scale=2")).unwrap();
    let image = Shape::new(1, 1280, 1280, 3);
    let kernel = operator.draw_state(image, 1).unwrap();
    assert_eq!(kernel, operator.draw_state(image, 1).unwrap());
    assert_ne!(kernel, operator.draw_state(image, 2).unwrap());
    let square: f32 = kernel.iter().map(|v| v * v).sum::<f32>() / kernel.len() as f32;
    assert!((square - 4.0).abs() < 0.8, "a variance of {square}");
    let said = operator.check(Shape::new(1, 128, 200, 3)).unwrap_err().to_string();
    assert!(said.contains("multiples of 128, not 200x128"), "{said}");
    assert!(operator.check(Shape::new(1, 192, 128, 3)).is_err(), "a multiple of 64 is not enough");
    let other = parse_task(&format!("nonlinear-blur:file={}", data("adm_a.pt"))).unwrap_err().to_string();
    assert!(other.contains("adm_a.pt") && other.contains("no convolution feature_extractor.0.weight"), "{other}");
    let none = parse_task("nonlinear-blur").unwrap_err().to_string();
    assert!(none.contains("write nonlinear-blur:file="), "{none}");
}
