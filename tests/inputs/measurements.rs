//! Measurements: given with or without their mask or kernel, under another task or noise, or made
//! by another operator.

use crate::table::{Folder, check, dmap, json, picture, row, text};
use dmap::graph::Shape;
use dmap::image::{Photo, Picture};
use dmap::operator::{Observed, StateOrigin, parse_task};
use dmap::sampler::{Measurement, Measurer, Noise};
use dmap::weights::write_safetensors;

/// The arguments that restore `input` as a measurement.
fn restore<'a>(input: &'a str, task: &'a str, out: &'a str) -> Vec<&'a str> {
    vec!["restore", input, "--measurement", "--steps", "2", "--task", task, "--out", out]
}

#[test]
fn a_measurement_is_restored_by_its_own_operator_and_noise_or_not_at_all() {
    let f = Folder::new();
    let (photo, out) = (f.picture("photo.png", 16, 16), f.string("out"));
    let made = |task: &str, noise: &str, folder: &str| {
        let a = ["restore", &photo, "--steps", "2", "--noise", noise, "--task", task, "--out", &f.string(folder)];
        let o = dmap(&a);
        assert!(o.status.success(), "{}", text(&o));
        f.string(&format!("{folder}/photo/measurement.safetensors"))
    };
    let random = made("inpaint-random", "0.05", "random");
    let blurred = made("gaussian-blur:size=9,sigma=1", "0.025", "blurred");
    let (mask, other_mask) = (f.picture("mask.png", 16, 16), f.string("other.png"));
    picture(17, 16).part(1, 0, 16, 16).write_png(other_mask.as_ref()).unwrap();
    let by_mask = format!("inpaint-mask:mask={mask}");
    let by_other = format!("inpaint-mask:mask={other_mask}");
    let masked = made(&by_mask, "0.025", "masked");

    let y = vec![0.1; 16 * 16 * 3];
    let write = |name: &str, tensors: &[(&str, Vec<usize>, &[f32])]| {
        write_safetensors(&f.path(name), tensors).unwrap();
        f.string(name)
    };
    let bare = write("bare.safetensors", &[("y", vec![1, 16, 16, 3], &y)]);
    let empty = write("empty.safetensors", &[("y", vec![1, 0, 16, 3], &[])]);
    let huge = write("huge.safetensors", &[("y", vec![1, 16, 16, 3], &[1e38; 768])]);
    let state = |name: &str, side: usize, value: f32| {
        let (y, s) = (("y", vec![1, 16, 16, 3], &y[..]), vec![value; side * side]);
        write(name, &[y, ("state", vec![1, side, side, 1], &s)])
    };
    let (no_pixel, odd_mask) = (state("none.safetensors", 16, 0.0), state("odd.safetensors", 16, 1e30));
    let (no_kernel, odd_kernel) = (state("k0.safetensors", 7, 0.0), state("k30.safetensors", 7, 1e30));
    let (sized, noisy) = (["--size", "8"], ["--noise", "0.1"]);

    check(&[
        row("a picture by a random mask", restore(&photo, "inpaint-random", &out), 2, "inpaint-mask:mask=FILE"),
        row("a picture by a random box", restore(&photo, "inpaint-box", &out), 2, "inpaint-mask:mask=FILE"),
        row("a picture by a random kernel", restore(&photo, "motion-blur:size=7", &out), 2, "motion-blur:kernel=FILE"),
        row(
            "a file without its mask",
            restore(&bare, "inpaint-random", &out),
            2,
            "measurement.safetensors that brings",
        ),
        row("a file with its mask", restore(&random, "inpaint-random", &f.string("a")), 0, "residual"),
        row("another task", restore(&random, "denoise", &out), 2, "give --task inpaint-random:missing=0.7"),
        row(
            "another option",
            restore(&random, "inpaint-random:missing=0.5", &out),
            2,
            "measured by task inpaint-random",
        ),
        row("another blur", restore(&blurred, "gaussian-blur:size=9,sigma=2", &out), 2, "sigma=1, not by"),
        row("its own mask file", restore(&masked, &by_mask, &f.string("b")), 0, "residual"),
        row(
            "a colour picture",
            restore(&photo, "colorize", &f.string("c")),
            0,
            "colours are averaged, because colorize",
        ),
        row("another mask file", restore(&masked, &by_other, &out), 2, "not the one of task"),
        row(
            "another noise",
            [&restore(&random, "inpaint-random", &out)[..], &noisy].concat(),
            2,
            "with noise 0.05, not 0.1",
        ),
        row("a crop", [&restore(&photo, "sr2", &out)[..], &sized].concat(), 2, "--size crops photos"),
        row("no values", restore(&empty, "denoise", &out), 2, "has no values"),
        row("values of 1e38", restore(&huge, "denoise", &out), 2, "tensor y holds 1"),
        row("a mask of zeros", restore(&no_pixel, "inpaint-random", &out), 2, "every pixel is missing"),
        row("a mask of 1e30", restore(&odd_mask, "inpaint-random", &out), 2, "a mask is 1 where a pixel is known"),
        row("a kernel of zeros", restore(&no_kernel, "motion-blur:size=7", &out), 2, "a kernel adds up to 1"),
        row("a kernel of 1e30", restore(&odd_kernel, "motion-blur:size=7", &out), 2, "a kernel adds up to 1"),
    ]);
    // The recorded noise is taken where none is typed.
    assert_eq!(json(&f.path("a/measurement/result.json"))["measurement_noise"], "0.05");
}

#[test]
fn a_measurement_of_another_operator_is_called_out() {
    let f = Folder::new();
    // Every second pixel of a photo is not what sr2 says: that averages before it takes one.
    let photo = Photo::read(concat!(env!("CARGO_MANIFEST_DIR"), "/demo/photo.png").as_ref()).unwrap().picture;
    let photo = photo.centre_crop(128, 128);
    let at = |i: usize| ((i / 3 / 64 * 2) * 128 + i / 3 % 64 * 2) * 3 + i % 3;
    let values = (0..64 * 64 * 3).map(|i| photo.values[at(i)]).collect();
    Picture { width: 64, height: 64, values }.write_png(&f.path("y.png")).unwrap();
    let (input, out) = (f.string("y.png"), f.string("out"));
    let o = dmap(&["restore", &input, "--measurement", "--task", "sr2", "--noise", "0.005", "--out", &out]);
    let (said, words) = (text(&o), "times the noise: the operator or the noise is not what you said");
    assert!(o.status.success() && said.contains(words), "{said}");
    let result = json(&f.path("out/y/result.json"));
    assert!(result["residual_over_noise"].as_f64().unwrap() > 1.3, "{result}");
    assert!(result["warning"].as_str().unwrap().contains(words));
}

#[test]
fn a_right_operator_and_noise_are_not_called_out() {
    let f = Folder::new();
    let (photo, out) = (f.picture("p.png", 64, 64), f.string("out"));
    let o = dmap(&["restore", &photo, "--task", "sr2", "--out", &out]);
    assert!(o.status.success() && !text(&o).contains("times the noise"), "{}", text(&o));
    let result = json(&f.path("out/p/result.json"));
    let ratio = result["residual_over_noise"].as_f64().unwrap();
    assert!((0.7..1.5).contains(&ratio) && result["warning"].is_null(), "{result}");
}

/// Every task at sizes where its state has as many values as the image has pixels.
#[test]
fn noise_is_added_wherever_the_operator_measures() {
    let sigma = 0.05;
    for (task, side) in [("motion-blur:size=21", 21), ("motion-blur", 61), ("inpaint-random", 61), ("inpaint-box", 40)]
        .into_iter()
        .chain([("sr2", 40), ("sr4", 64), ("gaussian-blur", 61), ("denoise", 33)])
    {
        let operator = parse_task(task).unwrap();
        let image = Shape::new(1, side, side, 3);
        let x = picture(side, side).values;
        let (m, drawn) = Measurement::simulate(operator.as_ref(), image, &x, Noise::Gaussian(sigma), 3).unwrap();
        let measured = match operator.observed(image, &m.state) {
            Observed::All => m.y.len(),
            Observed::Mask(mask) => 3 * mask.iter().filter(|&&v| v != 0.0).count(),
            other => panic!("{other:?}"),
        };
        let expected = 2.0 * sigma * (measured as f64).sqrt();
        assert!((m.noise_norm / expected - 1.0).abs() < 1e-6, "{task}: {} is not {expected}", m.noise_norm);
        assert!((drawn / expected - 1.0).abs() < 0.1, "{task}: {drawn} was drawn, not about {expected}");
        let is_mask = task.starts_with("inpaint");
        assert_eq!(matches!(operator.observed(image, &m.state), Observed::Mask(_)), is_mask, "{task}");
        assert_eq!(matches!(operator.state_origin(), StateOrigin::Drawn { .. }), is_mask || task.starts_with("motion"));
    }
}

#[test]
fn a_kernel_picture_is_what_a_point_becomes() {
    let f = Folder::new();
    // An L: from the centre up, and from there to the right.
    let mut psf = [[0f64; 5]; 5];
    for (r, c, v) in [(2, 2, 255.0), (1, 2, 204.0), (0, 2, 153.0), (0, 3, 102.0), (0, 4, 51.0)] {
        psf[r][c] = v;
    }
    let grey = image::GrayImage::from_fn(5, 5, |x, y| image::Luma([psf[y as usize][x as usize] as u8]));
    grey.save(f.path("psf.png")).unwrap();
    let operator = parse_task(&format!("motion-blur:kernel={}", f.string("psf.png"))).unwrap();
    let image = Shape::new(1, 24, 20, 3);
    let mut measurer = Measurer::new(operator.as_ref(), image).unwrap();
    let state = operator.draw_state(image, 0).unwrap();
    let x = picture(20, 24).values;
    let y = measurer.apply(&x, &state).unwrap();
    // Convolution by its definition, away from the boundary: y[p] = sum over t of k[t] x[p - t].
    let total: f64 = psf.iter().flatten().sum();
    for (r, c, ch) in (2..22).flat_map(|r| (2..18).flat_map(move |c| (0..3).map(move |ch| (r, c, ch)))) {
        let mut sum = 0.0;
        for (i, row) in psf.iter().enumerate() {
            for (j, k) in row.iter().enumerate() {
                sum += k / total * f64::from(x[((r + 2 - i) * 20 + c + 2 - j) * 3 + ch]);
            }
        }
        assert!((sum - f64::from(y[(r * 20 + c) * 3 + ch])).abs() < 1e-5, "at {r}, {c}");
    }
    let tasks = dmap(&["tasks"]);
    assert!(text(&tasks).contains("what a point of the image becomes"), "{}", text(&tasks));
}
