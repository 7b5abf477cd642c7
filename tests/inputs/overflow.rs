//! Numbers that run out of the finite ones: the image, what it was computed in, and what helps are
//! named.

use crate::folder_copy::copy;
use crate::table::{Folder, Row, check, dmap, json, row, text};
use dmap::backend::Device;
use dmap::error::Error;
use dmap::graph::{PlanOptions, Shape};
use dmap::model::Model;
use dmap::operator::parse_task;
use dmap::sampler::{Item, Measurement, Noise, Restorer, Settings};
use dmap::weights::{Checkpoint, write_safetensors_with};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Writes a copy of a file in which a tensor has been changed; its path.
fn changed(from: &Path, to: &Path, tensor: &str, change: impl Fn(&mut [f32])) -> String {
    let file = Checkpoint::open(from).unwrap();
    let values = |name: &String| {
        let mut values = file.values(name).unwrap();
        if name == tensor {
            change(&mut values);
        }
        values
    };
    assert!(file.tensors.contains_key(tensor));
    let all: Vec<_> = file.tensors.iter().map(|(name, t)| (&name[..], t.shape.clone(), values(name))).collect();
    let all: Vec<_> = all.iter().map(|(name, shape, values)| (*name, shape.clone(), &values[..])).collect();
    let metadata: Vec<_> = file.metadata.iter().map(|(k, v)| (&k[..], v.clone())).collect();
    write_safetensors_with(to, &all, &metadata).unwrap();
    to.display().to_string()
}

#[test]
fn the_advice_names_what_is_the_cause() {
    let folder = Folder::new();
    let [a, b] = ["a.png", "b.png"].map(|name| folder.picture(name, 32, 32));
    let model = folder.path("model.safetensors");
    let model = changed(&data("adm_c.safetensors"), &model, "out.2.weight", |w| w.fill(1e38));
    let [sound, out] = [data("adm_c.safetensors").display().to_string(), folder.string("out")];
    let run = |name: &'static str, model: &str, more: &[&str], phrase: &'static str| -> Row {
        let base =
            ["restore", &a, &b, "--task", "sr2", "--steps", "8", "--batch", "2", "--out", &out, "--model", model];
        row(name, [&base[..], more].concat(), 2, phrase)
    };
    let absolute = ["--method", "dps:step=published:1e30", "--no-clip"];
    let of_weights = "a.png: x is not finite after step 4 of 8 in f32; the model's weights and its configuration may \
                      not belong together";
    check(&[
        run("weights", &model, &[], of_weights),
        run("weights, the second image", &model, &[], "b.png: x is not finite"),
        run("weights, both counted", &model, &[], "2 of 2 inputs could not be restored, 0 were"),
        run("steps", &sound, &absolute, "choose a smaller step"),
        run("a prior alone", &model, &["--method", "unconditional"], "x is not finite after step"),
    ]);
    assert!(!folder.path("out/a").exists() && !folder.path("out/b").exists());

    let arguments = ["restore", &a, "--task", "sr2", "--steps", "2", "--out", &out, "--model", &model];
    let stepwise = std::process::Command::new(env!("CARGO_BIN_EXE_dmap"))
        .args(arguments)
        .env("DMAP_STEPWISE", "1")
        .output()
        .unwrap();
    assert!(text(&stepwise).contains("a.png: node out.2 wrote"), "{}", text(&stepwise));
}

#[test]
fn a_decoder_that_overflows_is_no_black_picture() {
    let folder = Folder::new();
    let photo = folder.picture("photo.png", 32, 32);
    let (model, out) = (folder.string("model"), folder.string("out"));
    copy(&data("latent_sd2"), &folder.path("model"));
    let weights = "vae/diffusion_pytorch_model.safetensors";
    let (from, to) = (data("latent_sd2").join(weights), folder.path("model").join(weights));
    // Only the bias, so that the gradient stays finite; only the restored image is decoded with it
    // where no gradient is taken.
    changed(&from, &to, "decoder.conv_out.bias", |b| b.fill(1e30));
    let run = ["restore", &photo, "--model", &model, "--task", "denoise", "--steps", "2", "--out", &out];
    let alone = [&run[..], &["--method", "unconditional"]].concat();
    check(&[row("a residual", run, 2, "the residual is infinite after step 1 of 2 in f32")]);
    let o = dmap(&alone);
    assert_eq!(o.status.code(), Some(0), "finite in f32: {}", text(&o));
    assert!(json(&folder.path("out/photo/result.json"))["residual"].as_f64().is_some());
    changed(&from, &to, "decoder.conv_out.weight", |w| w.fill(3e38));
    let again = [&alone[..], &["--overwrite"]].concat();
    check(&[row("a picture", again, 2, "photo.png: the decoder: node vae.decoder.conv_out wrote")]);
}

#[test]
fn eval_says_what_is_not_finite() {
    let folder = Folder::new();
    let model = folder.path("model.safetensors");
    let model = changed(&data("adm_c.safetensors"), &model, "out.2.bias", |w| w.fill(3e38));
    let (input, out) = (folder.path("in.safetensors"), folder.string("out.safetensors"));
    let x: Vec<f32> = (0..8 * 8 * 3).map(|i| (i as f32 * 0.37).sin()).collect();
    let tensors = [("x", vec![1, 8, 8, 3], &x[..]), ("t", vec![1], &[999.0][..])];
    write_safetensors_with(&input, &tensors, &[]).unwrap();
    let arguments = ["eval", "--model", &model, "--input", &input.display().to_string(), "--out", &out];
    check(&[row("x0", arguments, 2, "out.safetensors is not finite: node x0 wrote")]);
    assert!(Path::new(&out).exists());
}

#[test]
fn the_item_of_a_batch_is_named() {
    // One class of a conditional model is damaged.
    let folder = Folder::new();
    let path = folder.path("model.safetensors");
    changed(&data("adm_a.safetensors"), &path, "label_emb.weight", |w| {
        let width = w.len() / 10;
        w[3 * width..][..width].fill(3e38);
    });
    let model = Model::open(&path).unwrap();
    let operator = parse_task("denoise").unwrap();
    let image = Shape::new(3, 16, 16, 3);
    let one = Shape { n: 1, ..image };
    let settings = Settings::parse("dmap", &model.network.prior()).unwrap().steps(4);
    let mut restorer =
        Restorer::new(&model, &operator, &settings, image, PlanOptions::default(), &Device::cpu()).unwrap();
    let (measurement, _) =
        Measurement::simulate(operator.as_ref(), one, &vec![0.1; one.numel()], Noise::Gaussian(0.1), 1).unwrap();
    let mut restore = |labels: &[u32]| {
        let of = |&label: &u32| Item::new(measurement.clone(), 0).label(label);
        restorer.restore(&labels.iter().map(of).collect::<Vec<_>>(), |_| ControlFlow::Continue(()))
    };
    assert_eq!(restore(&[1, 2, 4]).unwrap().len(), 3);
    for (labels, expected) in [([1, 3, 4], 1), ([1, 2, 3], 2)] {
        let Err(Error::NotFinite { item, reason }) = restore(&labels) else { panic!("class 3 is damaged") };
        assert_eq!(item, Some(expected), "{reason}");
    }
    // What fills up a short batch is its last image.
    let Err(Error::NotFinite { item, .. }) = restore(&[1, 3]) else { panic!("class 3 is damaged") };
    assert_eq!(item, Some(1));
}

#[cfg(feature = "emulate")]
#[test]
fn half_precision_is_named_where_it_ends() {
    let folder = Folder::new();
    let model = folder.path("model.safetensors");
    // The first convolution is finite in f32, and beyond 65504.
    let bias = "input_blocks.0.0.bias";
    let too_large = folder.path("too-large.safetensors");
    let too_large = changed(&data("adm_c.safetensors"), &too_large, bias, |b| b.fill(1e6));
    let model = changed(&data("adm_c.safetensors"), &model, bias, |b| b.fill(65504.0));
    let model = changed(Path::new(&model), &folder.path("both.safetensors"), "input_blocks.0.0.weight", |w| {
        w.iter_mut().for_each(|w| *w *= 1000.0)
    });
    let (input, out) = (folder.path("in.safetensors"), folder.string("out.safetensors"));
    let x: Vec<f32> = (0..8 * 8 * 3).map(|i| (i as f32 * 0.37).sin()).collect();
    write_safetensors_with(&input, &[("x", vec![1, 8, 8, 3], &x[..]), ("t", vec![1], &[500.0][..])], &[]).unwrap();
    let photo = folder.picture("photo.png", 8, 8);
    let folder_out = folder.string("restored");
    let on_device = |model, out| ["--model", model, "--device", "emulated", "--precision", "f16", "--out", out];
    // Limiting x0 does not hide it.
    let evaluate = ["eval", "--clip", "--input", &input.display().to_string()];
    let restore = ["restore", &photo, "--task", "denoise", "--steps", "1", "--method", "unconditional"];
    check(&[
        row("eval", [&evaluate[..], &on_device(&model, &out)].concat(), 2, "node input_blocks.0.0 wrote inf"),
        row(
            "a weight",
            [&evaluate[..], &on_device(&too_large, &out)].concat(),
            2,
            "weight input_blocks.0.0.bias holds 1000000, and f16 ends",
        ),
        row(
            "restore",
            [&restore[..], &on_device(&model, &folder_out)].concat(),
            2,
            "in f16; f16 ends at 65504: choose bf16 or f32",
        ),
    ]);
}
