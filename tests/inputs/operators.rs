//! Tasks by their names: each measures, restores and reads its own measurement again; impossible
//! options and measurements are refused.

use crate::table::{Folder, check, dmap, json, row, text};
use dmap::image::{Photo, Picture};
use dmap::metrics::psnr;

/// Tasks that need no file, with sides of 32 pixels.
const TASKS: [&str; 13] = [
    "sr-average:factor=2",
    "sr-bicubic:factor=2",
    "uniform-blur:size=5",
    "anisotropic-blur:size=5,sigma=2,angle=30",
    "gaussian-blur:size=9,sigma=1,boundary=circular",
    "uniform-blur:size=5,boundary=valid",
    "colorize",
    "demosaic",
    "hdr",
    "jpeg:quality=20",
    "compressed-sensing:block=8",
    "edge",
    "gaussian-blur:size=9,sigma=1 + sr2 + colorize",
];

#[test]
fn every_task_restores_a_photo_and_reads_its_measurement_again() {
    let f = Folder::new();
    let photo = f.picture("photo.png", 32, 32);
    for (k, task) in TASKS.iter().enumerate() {
        let (first, second) = (f.string(&format!("a{k}")), f.string(&format!("b{k}")));
        let o = dmap(&["restore", &photo, "--steps", "2", "--task", task, "--out", &first]);
        assert!(o.status.success(), "{task}: {}", text(&o));
        let file = format!("{first}/photo/measurement.safetensors");
        let o = dmap(&["restore", &file, "--measurement", "--steps", "2", "--task", task, "--out", &second]);
        assert!(o.status.success(), "{task}: {}", text(&o));
        let same = |name: &str| {
            let read = |out: &str, image: &str| std::fs::read(format!("{out}/{image}/{name}")).unwrap();
            read(&first, "photo") == read(&second, "measurement")
        };
        assert!(same("restored.png") && same("measurement.png"), "{task}");
    }
}

#[test]
fn restarts_keep_the_smallest_residual_and_turn_the_image_to_the_truth() {
    let f = Folder::new();
    let (photo, out) = (f.picture("photo.png", 16, 16), f.string("out"));
    let base = ["restore", &photo, "--task", "phase-retrieval", "--method", "dps", "--steps", "3", "--out", &out];
    let o = dmap(&base);
    assert!(o.status.success(), "{}", text(&o));
    let result = json(&f.path("out/photo/result.json"));
    let tried: Vec<f64> = result["residual_restarts"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert!(tried.len() == 4 && result["restarts"] == 4, "{result}");
    let least = tried.iter().fold(f64::MAX, |m, &v| m.min(v));
    assert!(tried.iter().any(|&v| v > least) && result["residual"].as_f64() == Some(least), "{result}");
    let forms = ["negative", "turned by 180 degrees, negative", "turned by 180 degrees"];
    assert!(result["form"].is_null() || forms.contains(&result["form"].as_str().unwrap()), "{result}");
    let o = dmap(&[&base[..], &["--restarts", "1"]].concat());
    assert!(o.status.code() == Some(2) && text(&o).contains("restarts is 4 there, 1 here"), "{}", text(&o));

    // Of the forms that the measurement can't tell apart, the one nearest to the truth, or to the first
    // sample where no truth is known.
    let read = |name: &str| Photo::read(&f.path(name)).unwrap().picture;
    let is_nearest = |x: &Picture, to: &Picture| {
        let negative = Picture { values: x.values.iter().map(|v| -v).collect(), ..x.clone() };
        let turned = Picture { values: x.values.chunks(3).rev().flatten().copied().collect(), ..x.clone() };
        psnr(x, to) >= psnr(&negative, to).max(psnr(&turned, to))
    };
    assert!(is_nearest(&read("out/photo/restored.png"), &read("photo.png")));
    let (y, apart) = (f.string("out/photo/measurement.safetensors"), f.string("apart"));
    let base = ["restore", &y, "--measurement", "--task", "phase-retrieval", "--method", "dps", "--steps", "3"];
    let o = dmap(&[&base[..], &["--samples", "5", "--restarts", "1", "--out", &apart]].concat());
    assert!(o.status.success(), "{}", text(&o));
    let samples = [1, 2, 3, 4, 5].map(|k| read(&format!("apart/measurement/restored-{k}.png")));
    assert!(samples.iter().all(|x| is_nearest(x, &samples[0])));
}

#[test]
fn impossible_options_and_measurements_of_tasks_are_refused() {
    let f = Folder::new();
    let (photo, out) = (f.picture("photo.png", 20, 20), f.string("out"));
    let with = |input, task: &str, flags: &[&str], phrase| {
        row(input, [&["restore", &photo, "--task", task, "--out", &out][..], flags].concat(), 2, phrase)
    };
    let given = ["--measurement"];
    check(&[
        with("a quality of 0", "jpeg:quality=0", &[], "quality is 0, expected a whole number from 1 to 100"),
        with("a block of 12", "compressed-sensing:block=12", &[], "block is 12, expected a power of two"),
        with("blocks that do not fit", "compressed-sensing:block=16", &[], "is not made of blocks of 16x16"),
        with(
            "another boundary",
            "uniform-blur:boundary=zero",
            &[],
            "boundary is zero, expected reflect or circular or valid",
        ),
        with(
            "another resize",
            "sr-bicubic:like=opencv",
            &[],
            "expected pytorch or pytorch-aliased or matlab or deepinv",
        ),
        with("a factor above the size", "sr-average:factor=32", &[], "an image of 20x20 pixels is too small"),
        with("a gain below 1", "hdr:gain=0.5", &[], "gain is 0.5, expected a number from 1 to 100"),
        with("DDRM with JPEG", "jpeg", &["--method", "ddrm"], "which jpeg:quality=25 does not give"),
        with("DPIR with edges", "edge", &["--method", "dpir"], "linear"),
        with("a blur without its checkpoint", "nonlinear-blur", &[], "write nonlinear-blur:file=GOPRO_wVAE.pth"),
        with("an unknown gradient", "jpeg:gradient=soft", &[], "gradient"),
        with("an unknown end", "sr2+blurr", &[], "unknown task"),
        with("moduli as a picture", "phase-retrieval", &given, "its values do not fit into a picture"),
        with("edges as a picture", "edge", &given, "its values do not fit into a picture"),
        with("JPEG of one channel", "colorize+jpeg", &[], "measures three channels, what it gets has 1"),
        with("no end", "sr2+", &[], "task sr2+: a task is missing beside a +"),
        with("no start", "+sr2", &[], "a task is missing beside a +"),
        with("no matrix", "matrix", &[], "write matrix:file=FILE.mtx,width=W,height=H"),
        with("a matrix without a size", "matrix:file=absent.mtx", &[], "width is missing"),
        with("no such matrix", "matrix:file=absent.mtx,width=20,height=20", &[], "absent.mtx"),
        with("no such network", "network:file=absent.json", &[], "absent.json"),
    ]);
    let o = dmap(&["restore", &photo, "--task", "sr2", "--out", &out, "--restarts", "0"]);
    assert!(o.status.code() == Some(2) && text(&o).contains("0 is not in 1..=100"), "{}", text(&o));
}
