//! The program with latent models: raw evaluations against diffusers, restoring, and folders that
//! are not what they seem.

mod folder_copy;

use dmap::compare::relative_error;
use dmap::image::{Photo, Picture};
use dmap::weights::{Checkpoint, write_safetensors};
use folder_copy::copy;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn dmap(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dmap")).args(arguments).output().unwrap()
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(format!("latent_{name}"))
}

/// Tensors of the reference under the names that `dmap eval` reads.
fn write_inputs(file: &Checkpoint, path: &Path, names: &[(&str, &str)]) {
    let values: Vec<_> = names.iter().map(|(from, _)| file.values(from).unwrap()).collect();
    let tensors = names.iter().zip(&values).map(|((from, to), v)| (*to, file.tensors[*from].shape.clone(), &v[..]));
    write_safetensors(path, &tensors.collect::<Vec<_>>()).unwrap();
}

#[test]
fn eval_gives_what_diffusers_gives_part_by_part() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let eval = |name: &str, more: &[&str]| {
        let model = model(name);
        let mut a = vec!["eval", "--model", model.to_str().unwrap(), "--input", input.to_str().unwrap()];
        a.extend(["--out", out.to_str().unwrap()]);
        a.extend(more);
        let o = dmap(&a);
        assert!(o.status.success(), "{}", text(&o));
        Checkpoint::open(&out).unwrap()
    };
    for name in ["sd1", "sd2"] {
        let file = Checkpoint::open(&model(name).join("reference.safetensors")).unwrap();
        let same = |found: &Checkpoint, tensor: &str, expected: &str| {
            let error = relative_error(&found.values(tensor).unwrap(), &file.values(expected).unwrap());
            assert!(error <= 1e-5, "{name}: {tensor} is {error:.1e} from {expected}");
        };
        for part in ["unet", "encoder"] {
            let path = |tensor: &str| format!("{part}.{tensor}");
            let names = ["x", "v", "t"].map(path);
            let count = if part == "unet" { 3 } else { 2 };
            let names: Vec<_> = names.iter().zip(["x", "v", "t"]).take(count).map(|(a, b)| (&a[..], b)).collect();
            write_inputs(&file, &input, &names);
            let found = eval(name, &["--part", part]);
            same(&found, "output", &path("output"));
            same(&found, "vjp", &path("vjp"));
        }
        // The text whose embedding the reference holds: begin, end, padding.
        let padding = if name == "sd2" { 0.0 } else { 49.0 };
        let tokens = [48.0, 49.0, padding, padding, padding, padding, padding];
        write_safetensors(&input, &[("tokens", vec![7], &tokens[..])]).unwrap();
        same(&eval(name, &["--part", "text"]), "output", "prompt_embeds");

        // A prompt, by the tokenizer's files; what is longer than the encoder's positions is cut
        // off.
        let model = model(name);
        let model = model.to_str().unwrap();
        let path = out.to_str().unwrap();
        let prompt = "A  photo, of 2 Cats; to a dog";
        let o = dmap(&["eval", "--model", model, "--part", "text", "--prompt", prompt, "--out", path]);
        assert!(o.status.success(), "{}", text(&o));
        same(&Checkpoint::open(&out).unwrap(), "output", "prompt.output");

        // The gradient at z of sigma space: x = z / sqrt(1 + sigma^2), so dL/dz = dL/dx / sqrt(1 +
        // sigma^2).
        let scale = 1.0 / (1.0 + file.values("step.sigma").unwrap()[0].powi(2)).sqrt();
        let x: Vec<f32> = file.values("step.z").unwrap().iter().map(|z| z * scale).collect();
        let [y, t, context] = ["chain.y", "step.t", "prompt_embeds"].map(|n| (n, file.values(n).unwrap()));
        let shape = |n: &str| file.tensors[n].shape.clone();
        let tensors = [
            ("x", shape("step.z"), &x[..]),
            ("t", vec![1], &t.1),
            ("y", shape(y.0), &y.1),
            ("context", shape(context.0), &context.1),
        ];
        write_safetensors(&input, &tensors).unwrap();
        let found = eval(name, &["--task", "denoise"]);
        same(&found, "residual", "step.residual");
        let gradient: Vec<f32> = found.values("gradient").unwrap().iter().map(|g| g * scale).collect();
        let error = relative_error(&gradient, &file.values("step.gradient").unwrap());
        assert!(error <= 1e-4, "{name}: the gradient is {error:.1e} away");
    }
}

#[test]
fn a_photo_of_any_size_is_restored_through_the_decoder() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let values = (0..20 * 24 * 3).map(|i| (i as f32 * 0.01).sin() * 0.7).collect();
    Picture { width: 24, height: 20, values }.write_png(Path::new(&path("photo.png"))).unwrap();
    let model = model("sd2");
    let model = model.to_str().unwrap();
    let (photo, out) = (path("photo.png"), path("out"));
    let flags = ["--task", "sr2", "--steps", "3", "--spacing", "linspace", "--save-every", "1", "--batch", "2"];
    for (method, samples) in [("dmap", "2"), ("dps", "1"), ("unconditional", "1")] {
        let mut a = vec!["restore", &photo, "--model", model, "--method", method, "--samples", samples];
        a.extend(flags);
        a.extend(["--out", &out, "--overwrite"]);
        let o = dmap(&a);
        assert!(o.status.success(), "{method}: {}", text(&o));
        assert!(text(&o).contains("canvas of 32x32"), "{}", text(&o));
        let restored = if samples == "2" { "out/photo/restored-1.png" } else { "out/photo/restored.png" };
        let picture = Photo::read(Path::new(&path(restored))).unwrap().picture;
        assert_eq!((picture.width, picture.height), (24, 20));
    }
}

/// A damaged copy of a model folder is refused in one sentence that holds `words`.
fn refused(name: &str, damage: impl Fn(&Path), words: &str) {
    let folder = tempfile::tempdir().unwrap();
    copy(&model(name), folder.path());
    damage(folder.path());
    let out = folder.path().join("out");
    let (model, out) = (folder.path().to_str().unwrap(), out.to_str().unwrap());
    let o = dmap(&["restore", "demo/photo.png", "--model", model, "--task", "sr4", "--out", out]);
    let said = text(&o);
    assert_eq!(o.status.code(), Some(2), "{words}: {said}");
    assert!(said.contains(words) && said.trim().lines().count() == 1, "expected {words}: {said}");
    assert!(!Path::new(out).exists(), "{words}: something was written");
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn damaged_folders_are_refused_by_name() {
    let remove = |part: &'static str| move |f: &Path| std::fs::remove_dir_all(f.join(part)).unwrap();
    let config = |from: &'static str, to: &'static str| move |f: &Path| edit(&f.join("unet/config.json"), from, to);
    let folder = tempfile::tempdir().unwrap();
    copy(&model("sd1"), folder.path());
    std::fs::remove_dir_all(folder.path().join("tokenizer")).unwrap();
    let (path, out) = (folder.path().to_str().unwrap(), folder.path().join("out"));
    let a = ["restore", "demo/photo.png", "--model", path, "--task", "sr4", "--prompt", "a cat", "--out"];
    let o = dmap(&[&a[..], &[out.to_str().unwrap()]].concat());
    assert!(o.status.code() == Some(2) && text(&o).contains("a prompt needs"), "{}", text(&o));

    for (method, words) in [("psld", "psld needs a latent model"), ("p2l", "p2l needs a latent model")] {
        let a = ["restore", "demo/photo.png", "--task", "sr4", "--method", method, "--out"];
        let o = dmap(&[&a[..], &[out.to_str().unwrap()]].concat());
        assert!(o.status.code() == Some(2) && text(&o).contains(words) && !out.exists(), "{}", text(&o));
    }

    refused("sd1", remove("vae"), "vae is missing");
    refused("sd1", remove("text_encoder"), "neither text_encoder nor prompt_embeds.safetensors");
    refused("sd1", |f| std::fs::remove_file(f.join("unet/config.json")).unwrap(), "unet/config.json");
    refused("sd1", |f| std::fs::write(f.join("vae/config.json"), "{\"act_fn\": ").unwrap(), "not JSON");
    refused("sd1", config("[\n    16,\n    32\n  ]", "[16, 64]"), "shape");
    refused("sd1", config("\"layers_per_block\": 2", "\"layers_per_block\": 3"), "missing");
    refused("sd1", config("\"layers_per_block\": 2", "\"layers_per_block\": 1"), "unexpected");
    refused(
        "sd1",
        config("\"in_channels\": 4", "\"in_channels\": 4, \"class_embed_type\": \"timestep\""),
        "class_embed_type",
    );
    refused("sd1", config("\"in_channels\": 4", "\"in_channels\": 9"), "9 channels");
    refused("sd1", config("CrossAttnUpBlock2D", "AttnUpBlock2D"), "block type AttnUpBlock2D");
    refused("sd1", config("\"attention_head_dim\": 2", "\"attention_head_dim\": 3"), "3 heads");
    refused("sd1", config("\"cross_attention_dim\": 24", "\"cross_attention_dim\": 32"), "24 channels");
    let shard = "unet/diffusion_pytorch_model-00002-of-00002.safetensors";
    refused("sd2", |f| std::fs::remove_file(f.join(shard)).unwrap(), "not in this folder");
    let index = "unet/diffusion_pytorch_model.safetensors.index.json";
    refused(
        "sd2",
        |f| edit(&f.join(index), "diffusion_pytorch_model-00002", "../unet/diffusion_pytorch_model-00002"),
        "not in this folder",
    );
    refused("sd2", |f| edit(&f.join("scheduler/scheduler_config.json"), "v_prediction", "sample"), "prediction_type");
    refused("sd2", |f| edit(&f.join("scheduler/scheduler_config.json"), "scaled_linear", "cosine"), "beta_schedule");
    refused("sd2", |f| edit(&f.join("text_encoder/config.json"), "\"gelu\"", "\"relu\""), "hidden_act");
    refused("sd2", |f| std::fs::write(f.join("vae/diffusion_pytorch_model.safetensors"), [1, 2, 3]).unwrap(), "vae/");
}

#[test]
fn a_scheduler_that_may_be_wrong_about_the_prediction_is_told() {
    let folder = tempfile::tempdir().unwrap();
    copy(&model("sd1"), folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    edit(&folder.path().join("unet/config.json"), "\"in_channels\": 4", "\"in_channels\": 4, \"sample_size\": 96");
    edit(&folder.path().join("unet/config.json"), "\"cross_attention_dim\": 24", "\"cross_attention_dim\": 1024");
    // The text of the right width, without which the folder would be refused first.
    let embedded = vec![0.1; 1024];
    write_safetensors(Path::new(&path("prompt_embeds.safetensors")), &[("prompt_embeds", vec![1, 1, 1024], &embedded)])
        .unwrap();
    let weights = Checkpoint::open(Path::new(&path("unet/diffusion_pytorch_model.safetensors"))).unwrap();
    let widened: Vec<(String, Vec<usize>, Vec<f32>)> = (weights.tensors.iter())
        .map(|(name, t)| match name.contains("attn2.to_k") || name.contains("attn2.to_v") {
            true => (name.clone(), vec![t.shape[0], 1024], vec![0.01; t.shape[0] * 1024]),
            false => (name.clone(), t.shape.clone(), weights.values(name).unwrap()),
        })
        .collect();
    drop(weights);
    let tensors: Vec<_> = widened.iter().map(|(n, s, v)| (&n[..], s.clone(), &v[..])).collect();
    write_safetensors(Path::new(&path("unet/diffusion_pytorch_model.safetensors")), &tensors).unwrap();
    let a = ["restore", "demo/photo.png", "--size", "16", "--task", "sr4", "--steps", "2", "--model"];
    let o = dmap(&[&a[..], &[folder.path().to_str().unwrap(), "--out", &path("out")]].concat());
    assert!(o.status.success() && text(&o).contains("v_prediction"), "{}", text(&o));
}
