//! Conditional score estimators: those that do not fit task, model or method, and what `dmap info`
//! says of them.

use crate::folder_copy::copy;
use crate::table::{Folder, Row, check, dmap, row, text};
use dmap::model::{ControlOrigin, Model};
use dmap::weights::{Checkpoint, write_safetensors_with};
use std::path::{Path, PathBuf};

const PIXELS: &str = "tests/data/adm_control.safetensors";
const OF_PIXELS: &str = "tests/data/adm_control_cse.safetensors";
const LATENTS: &str = "tests/data/latent_sd1";
const OF_LATENTS: &str = "tests/data/latent_sd1/controlnet";
const CONFIG: &str = r#"{"conditioning_channels":3,"conditioning_embedding_out_channels":[16,32]}"#;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// What a file says that was trained for sr2 on the model at `path`.
fn origin(path: &str) -> ControlOrigin {
    let model = Model::open(data(path)).unwrap();
    let (task, noise, name) = ("sr2".into(), "0.025".into(), model.name.clone());
    ControlOrigin {
        task,
        noise,
        model: name,
        model_sha256: model.weights.files_sha256().unwrap(),
        shots: 20,
        steps: 300,
    }
}

/// Writes the tensors of a file that pass `keep`, with this metadata.
fn rewrite(from: &str, to: &Path, metadata: &[(&str, String)], keep: impl Fn(&str) -> bool) {
    let file = Checkpoint::open(&data(from)).unwrap();
    let read = |name: &str| file.values(name).unwrap();
    let kept = file.tensors.iter().filter(|(name, _)| keep(name));
    let tensors: Vec<_> = kept.map(|(name, t)| (&name[..], t.shape.clone(), read(name))).collect();
    let tensors: Vec<_> = tensors.iter().map(|(n, s, v)| (*n, s.clone(), &v[..])).collect();
    write_safetensors_with(to, &tensors, metadata).unwrap();
}

/// The inputs of a test.
struct Inputs {
    folder: Folder,
    photo: String,
}

impl Inputs {
    fn new() -> Self {
        let folder = Folder::new();
        let photo = folder.picture("photo.png", 16, 16);
        Inputs { folder, photo }
    }

    /// A ControlNet of the pixel model with this metadata; its path.
    fn file(&self, name: &str, config: &str, origin: Option<&ControlOrigin>) -> String {
        let mut metadata = vec![("config", config.to_string())];
        metadata.extend(origin.map(|o| ("dmap_cse", serde_json::to_string(o).unwrap())));
        rewrite(OF_PIXELS, &self.folder.path(name), &metadata, |_| true);
        self.folder.string(name)
    }

    /// A ControlNet of the latent model whose configuration has `to` in place of `from`; its path.
    fn edited(&self, name: &str, from: &str, to: &str) -> String {
        copy(&data(OF_LATENTS), &self.folder.path(name));
        let path = self.folder.path(name).join("config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from}: {text}");
        std::fs::write(path, text.replace(from, to)).unwrap();
        self.folder.string(name)
    }

    /// A run with `flags`, whose words are separated by spaces, and the estimator `cse` if one is
    /// given.
    fn row(&self, input: &'static str, cse: &str, flags: &str, code: i32, phrase: &'static str) -> Row {
        let out = self.folder.string("out");
        let base = ["restore", &self.photo, "--out", &out, "--overwrite", "--steps", "2"];
        let cse: &[&str] = if cse.is_empty() { &[] } else { &["--cse", cse] };
        row(input, [&base[..], cse, &flags.split(' ').collect::<Vec<_>>()].concat(), code, phrase)
    }
}

/// The table, and that each refusal is one line and leaves no folder.
fn check_refusals(inputs: &Inputs, rows: &[Row]) {
    check(rows);
    for row in rows {
        let out = dmap(&row.arguments);
        let lines = text(&out).trim().lines().count();
        assert!(lines == 1, "{}: {}", row.input, text(&out));
    }
    assert!(!inputs.folder.path("out").exists(), "something was written");
}

#[test]
fn estimators_that_do_not_fit_are_refused_in_a_sentence() {
    let i = Inputs::new();
    let [pixels, latents] = [PIXELS, LATENTS].map(|m| format!("--task sr2 --model {m}"));
    let (of_pixels, of_latents) = (OF_PIXELS, OF_LATENTS);
    let trained = i.file("trained.safetensors", CONFIG, Some(&origin(PIXELS)));
    let elsewhere = ControlOrigin { model_sha256: "0".repeat(64), model: "faces.pt".into(), ..origin(PIXELS) };
    let elsewhere = i.file("elsewhere.safetensors", CONFIG, Some(&elsewhere));
    let grey = i.file("grey.safetensors", &CONFIG.replace("3,", "1,"), None);
    let odd = i.file("odd.safetensors", &CONFIG.replace("[16,32]", "[]"), None);
    rewrite(OF_PIXELS, &i.folder.path("bare.safetensors"), &[], |_| true);
    let unread = [("config", CONFIG.to_string()), ("dmap_cse", "{}".into())];
    rewrite(OF_PIXELS, &i.folder.path("unread.safetensors"), &unread, |_| true);
    let config = [("config", CONFIG.to_string())];
    rewrite(OF_PIXELS, &i.folder.path("short.safetensors"), &config, |n| n != "controlnet_mid_block.bias");
    let [bare, unread, short, none] =
        ["bare", "unread", "short", "none"].map(|name| i.folder.string(&format!("{name}.safetensors")));
    let wide = i.edited("wide", "16,\n    32", "16,\n    64");
    let shallow = i.edited("shallow", "4,\n    6", "4");
    let sdxl = i.edited("sdxl", "\"addition_embed_type\": null", "\"addition_embed_type\": \"text_time\"");
    let part = i.edited("part", "\"in_channels\": 4", "\"in_channels\": 4");
    let weights = "diffusion_pytorch_model.safetensors";
    let from = format!("{OF_LATENTS}/{weights}");
    rewrite(&from, &i.folder.path("part").join(weights), &[], |n| n != "controlnet_down_blocks.1.bias");

    let other_task = format!("--task sr4 --model {PIXELS}");
    let [ddrm, prior, alone, two] = [
        format!("{pixels} --method ddrm"),
        format!("{pixels} --method dps:through=prior"),
        format!("{pixels} --method cse"),
        format!("{pixels} --method dmap:through=two"),
    ];
    let [nan, infinite] = ["nan", "inf"].map(|scale| format!("{pixels} --cse-scale {scale}"));
    let rows = [
        i.row("another task", &trained, &other_task, 2, "trained for the task sr2, not for sr4: give --task sr2"),
        i.row("another model", &elsewhere, &pixels, 2, "trained for the model faces.pt, which has other weights"),
        i.row(
            "a file for latents",
            of_pixels,
            &latents,
            2,
            "latent_sd1 is a latent model, whose ControlNet is a folder",
        ),
        i.row("weights for latents", &from, &latents, 2, "give the folder with config.json and the weights"),
        i.row("a folder for pixels", of_latents, &pixels, 2, "a folder without cse.safetensors, but"),
        i.row("other channels", &wide, &latents, 2, "its block_out_channels is [16, 64], the UNet's [16, 32]"),
        i.row("few levels", &shallow, &latents, 2, "[4] makes images 1 times smaller, the model's latents are 2"),
        i.row("an option of SDXL", &sdxl, &latents, 2, "addition_embed_type is \"text_time\"; only null is supported"),
        i.row(
            "a missing tensor",
            &short,
            &pixels,
            2,
            "1 missing (controlnet_mid_block.bias); give the model that it was",
        ),
        i.row(
            "a part",
            &part,
            &latents,
            2,
            "not those of a ControlNet of latent_sd1: 1 missing (controlnet_down_blocks.1.b",
        ),
        i.row("other shapes", of_pixels, "--task sr2", 2, "a ControlNet of photo: "),
        i.row(
            "a method that takes none",
            of_pixels,
            &ddrm,
            2,
            "ddrm takes no conditional score estimator: leave --cse out",
        ),
        i.row("none for cse", "", &alone, 2, "cse needs a conditional score estimator: give one with --cse"),
        i.row(
            "none for the prior",
            "",
            &prior,
            2,
            "through=prior needs a conditional score estimator: give one with --cse",
        ),
        i.row("an unknown network", of_pixels, &two, 2, "through is two, expected both or prior"),
        i.row("no scale", of_pixels, &nan, 2, "--cse-scale NaN: a number is expected; 1"),
        i.row("a huge scale", of_pixels, &infinite, 2, "--cse-scale inf: a number is expected"),
        i.row("no config", &bare, &pixels, 2, "its metadata has no config; give the file that `dmap train-cse` wrote"),
        i.row(
            "an odd config",
            &odd,
            &pixels,
            2,
            "lacks a usable conditioning_channels or conditioning_embedding_out_c",
        ),
        i.row("the model itself", PIXELS, &pixels, 2, "no conditional score estimator of a pixel model"),
        i.row("an unreadable origin", &unread, &pixels, 2, "dmap_cse in its metadata can't be read"),
        i.row(
            "a grey condition",
            &grey,
            &pixels,
            2,
            "controlnet_cond_embedding.conv_in.weight has shape [16, 3, 3, 3]",
        ),
        i.row(
            "no configuration",
            LATENTS,
            &latents,
            2,
            "no ControlNet: config.json is missing; give the folder that has",
        ),
        i.row("no file", &none, &pixels, 2, "none.safetensors: No such file"),
        i.row("no folder", &none, &latents, 2, "none.safetensors: No such file"),
        i.row("a file as the model", "", &format!("--task sr2 --model {OF_PIXELS}"), 2, "give that model with --model"),
        i.row("a folder as the model", "", &format!("--task sr2 --model {OF_LATENTS}"), 2, "this folder with --cse"),
    ];
    check_refusals(&i, &rows);
    // The parser of flags has its own words.
    let o = dmap(&i.row("a scale of nothing", "", &format!("{pixels} --cse-scale 2"), 2, "").arguments);
    assert!(o.status.code() == Some(2) && text(&o).contains("--cse <PATH>"), "{}", text(&o));
}

#[test]
fn the_estimators_inside_the_program_belong_to_its_pixel_prior_and_two_tasks() {
    let i = Inputs::new();
    let rows = [
        i.row(
            "a task without one",
            "photo",
            "--task sr2",
            2,
            "are for sr4 and gaussian-blur:size=61,sigma=3, not for sr2; train one with dmap train-cse",
        ),
        i.row("another task of the kind", "photo", "--task gaussian-blur:sigma=2", 2, "not for gaussian-blur:size=61"),
        i.row(
            "another model",
            "photo",
            &format!("--task sr4 --model {PIXELS}"),
            2,
            "trained for the model photo, which",
        ),
        i.row("a latent model", "photo", "--task sr4 --model tiny-latent", 2, "trained for the model photo, which"),
        i.row(
            "from in latents",
            OF_LATENTS,
            &format!("--task sr2 --model {LATENTS} --method cse:from=2"),
            2,
            "from needs",
        ),
    ];
    check_refusals(&i, &rows[..4]);
    check(&rows[4..]);
    check(
        &["sr4", "gaussian-blur"]
            .map(|task| i.row("theirs", "photo", &format!("--task {task} --method cse:from=2"), 0, "residual")),
    );
    let arguments = ["demo", "--cse", "--task", "sr8"].map(String::from);
    let o = dmap(&[&arguments[..], &["--out".into(), i.folder.string("demo")]].concat());
    assert!(o.status.code() == Some(2) && text(&o).contains("not for sr8"), "{}", text(&o));
    assert!(!i.folder.path("demo").exists());
}

#[test]
fn estimators_that_fit_restore_and_are_recorded() {
    let i = Inputs::new();
    let trained = i.file("trained.safetensors", CONFIG, Some(&origin(PIXELS)));
    let with =
        |input, flags: &str, phrase| i.row(input, &trained, &format!("--task sr2 --model {PIXELS} {flags}"), 0, phrase);
    let latent = format!("--task sr2 --model {LATENTS} --method dps");
    check(&[
        with("auto", "--estimate sample", "residual"),
        with("cse", "--method cse", "residual"),
        with("a scale", "--method dmap:k=1,through=prior --cse-scale 0.5", "residual"),
        i.row(
            "latents",
            OF_LATENTS,
            &latent,
            0,
            "does not say for which task it was trained; it is shown images in [-1, 1]",
        ),
    ]);
    // What a result was made from includes estimator and scale.
    let with_scale = |scale: &str| {
        let flags = format!("--task sr2 --model {PIXELS} --method cse --cse-scale {scale}");
        let mut arguments = i.row("", &trained, &flags, 0, "").arguments;
        arguments.retain(|a| a != "--overwrite");
        text(&dmap(&arguments))
    };
    std::fs::remove_dir_all(i.folder.path("out")).unwrap();
    assert!(with_scale("1").contains("residual"));
    assert!(with_scale("1").contains("finished before"));
    assert!(with_scale("0.5").contains("another configuration"), "{}", with_scale("0.5"));
}

#[test]
fn info_says_what_an_estimator_is_for() {
    let i = Inputs::new();
    let trained = i.file("trained.safetensors", CONFIG, Some(&origin(PIXELS)));
    let broken = i.file("broken.safetensors", "{}", None);
    let info = |input, path: &str, phrase| row(input, ["info", path], 0, phrase);
    check(&[
        info("a folder", OF_LATENTS, "a ControlNet in diffusers layout, 139122 parameters"),
        info("its model", OF_LATENTS, "a UNet of [16, 32] channels and images 2 times the size of latents"),
        info("a file", OF_PIXELS, "for pixel models; reads an image of 3 channels"),
        info("no task", OF_PIXELS, "does not say for which task"),
        info(
            "a task",
            &trained,
            "trained for --task sr2 with --noise 0.025 and the model adm_control.safetensors, on 20 photos",
        ),
        info("a wrong config", &broken, "a ControlNet that is not usable as it is"),
    ]);
    let [folder, tensors] = [dmap(&["info", OF_LATENTS]), dmap(&["info", OF_PIXELS, "--tensors"])];
    assert_eq!(text(&folder).trim().lines().count(), 3, "{}", text(&folder));
    assert!(text(&tensors).contains("controlnet_mid_block.weight [32, 32, 1, 1]"), "{}", text(&tensors));
}
