//! Configurations: checkpoints known by their shapes, the JSON beside a file, and the folders of
//! latent models.

use crate::folder_copy::copy;
use crate::pickles::safetensors;
use crate::table::{Folder, Row, check, row};
use dmap::graph::{Graph, Shape};
use dmap::model::training_schedule::alpha_bars;
use dmap::model::{AdmConfig, Conditioning, Identified, Network, NoiseSchedule, SchedulerConfig};
use dmap::weights::Checkpoint;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A sparse file with the tensors of a network, as PyTorch has them, all zeros; its path.
fn sparse(folder: &Folder, name: &str, config: &AdmConfig) -> String {
    sparse_with(folder, name, config, "", &[])
}

/// As [`sparse`], with a table of f32 behind the weights unless it is empty.
fn sparse_with(folder: &Folder, name: &str, config: &AdmConfig, table: &str, values: &[f32]) -> String {
    let mut g = Graph::new();
    let size = config.size_multiple();
    let x = g.input("x", Shape::new(1, size, size, config.in_channels));
    let t = g.input("t", Shape::rows(1, 1));
    let labels = config.class_cond.then(|| g.input("labels", Shape::rows(1, 1)));
    config.record(&mut g, x, t, &Conditioning::default().labels(labels)).unwrap();
    let (mut end, mut entries) = (0, Vec::new());
    for tensor in g.weight_parts() {
        let extents = match tensor.shape {
            Shape { n: 1, h: 1, w: 1, c } => vec![c],
            Shape { n, h: 1, w: 1, c } => vec![n, c],
            Shape { n, h, w, c } => vec![n, c, h, w],
        };
        let (start, name) = (end, &tensor.name);
        end += 2 * tensor.shape.numel();
        entries.push(format!(r#""{name}":{{"dtype":"F16","shape":{extents:?},"data_offsets":[{start},{end}]}}"#));
    }
    if !values.is_empty() {
        let (count, stop) = (values.len(), end + 4 * values.len());
        entries.push(format!(r#""{table}":{{"dtype":"F32","shape":[{count}],"data_offsets":[{end},{stop}]}}"#));
    }
    let header = safetensors(&format!("{{{}}}", entries.join(",")), &[]);
    std::fs::write(folder.path(name), &header).unwrap();
    let mut file = std::fs::OpenOptions::new().write(true).open(folder.path(name)).unwrap();
    file.set_len((header.len() + end) as u64).unwrap();
    file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    folder.string(name)
}

#[test]
fn published_checkpoints_are_known_by_their_shapes() {
    let folder = Folder::new();
    let identify = |path: &str| AdmConfig::identify(&Checkpoint::open(Path::new(path)).unwrap()).unwrap();
    for (name, what) in AdmConfig::ARCHITECTURES {
        let config = AdmConfig::architecture(name).unwrap();
        let found = identify(&sparse(&folder, &format!("{name}.safetensors"), &config));
        assert_eq!(found, Identified { config, recognised: Some(what), warning: None }, "{name}");
    }
    // Figures of guided-diffusion's README: https://github.com/openai/guided-diffusion.
    let [cond_64, cond_128] = ["adm-64-cond", "adm-128-cond"].map(|name| AdmConfig::architecture(name).unwrap());
    assert!(
        cond_64.use_new_attention_order && cond_64.noise_schedule == NoiseSchedule::Cosine && cond_64.heads(384) == 6
    );
    assert!(!cond_128.use_new_attention_order && cond_128.heads(512) == 4 && cond_128.heads(1024) == 4);

    let info = |name: &'static str, phrase| row(name, ["info", &folder.string(name)], 0, phrase);
    check(&[
        info("adm-64-cond.safetensors", "recognised as 64x64_diffusion.pt"),
        info("adm-128-cond.safetensors", "\"num_head_channels\":0,\"num_heads\":4"),
        info("adm-256.safetensors", "lsun_*.pt"),
    ]);
}

#[test]
fn what_can_not_restore_is_named() {
    let folder = Folder::new();
    let photo = folder.picture("photo.png", 64, 64);
    let restore = |model: &str| {
        ["restore", &photo, "--model", model, "--task", "sr4", "--out", &folder.string("out")].map(str::to_string)
    };
    let upsampler = AdmConfig { model_channels: 192, in_channels: 6, class_cond: true, ..AdmConfig::default() };
    let to_256 = sparse(&folder, "to_256.safetensors", &upsampler);
    let to_512 = sparse(&folder, "to_512.safetensors", &AdmConfig { attention_ds: vec![16, 32], ..upsampler });
    let blocks = (1..18).map(|i| format!("input_blocks.{i}.0.in_layers.0.weight"));
    let names = ["time_embed.0.weight", "input_blocks.0.0.weight", "out.2.positional_embedding"].map(String::from);
    let entries: Vec<String> = (names.into_iter().chain(blocks))
        .map(|name| format!(r#""{name}":{{"dtype":"F16","shape":[0],"data_offsets":[0,0]}}"#))
        .collect();
    let classifier = folder.string("classifier.safetensors");
    std::fs::write(&classifier, safetensors(&format!("{{{}}}", entries.join(",")), &[])).unwrap();
    check(&[
        row("an upsampler", restore(&to_256), 2, "an upsampler (64_256_upsampler.pt of guided-diffusion)"),
        row("another", restore(&to_512), 2, "an upsampler (128_512_upsampler.pt of guided-diffusion)"),
        row("a classifier", restore(&classifier), 2, "a classifier (256x256_classifier.pt of guided-diffusion)"),
    ]);
    assert!(!folder.path("out").exists());
}

#[test]
fn what_the_shapes_leave_open_is_said() {
    let folder = Folder::new();
    let [photo, model, out] = [folder.picture("photo.png", 32, 32), folder.string("a.pt"), folder.string("out")];
    std::fs::copy(data("adm_a.pt"), &model).unwrap();
    let restore = ["restore", &photo, "--model", &model, "--task", "sr2", "--steps", "2", "--out", &out];
    let assumed = "assumed, not known from the file: heads (num_head_channels 64), attention order \
                   (use_new_attention_order false), noise schedule (noise_schedule linear) and its steps \
                   (diffusion_steps 1000); put the right ones into";
    check(&[row("info", ["info", &model], 0, assumed), row("restore", restore, 0, assumed)]);
    // Another configuration makes another result, which does not pass for the first one.
    std::fs::write(folder.path("a.json"), r#"{"num_heads": 2}"#).unwrap();
    let fewer = "assumed, not known from the file: attention order";
    check(&[row("heads", ["info", &model], 0, fewer), row("a second run", restore, 2, "another configuration")]);
    let whole = r#"{"num_heads": 2, "use_new_attention_order": false, "noise_schedule": "linear", "steps": 1000}"#;
    std::fs::write(folder.path("a.json"), whole).unwrap();
    let out = crate::table::dmap(&["info", &model]);
    assert!(!crate::table::text(&out).contains("assumed"), "{}", crate::table::text(&out));
}

#[test]
fn the_json_beside_a_file_is_believed_or_refused_by_key() {
    let folder = Folder::new();
    let photo = folder.picture("photo.png", 32, 32);
    let rows = |cases: &[(&'static str, i32, &'static str)]| -> Vec<Row> {
        let row = |(i, (json, code, phrase)): (usize, &(&'static str, i32, &'static str))| {
            let [model, beside] = ["pt", "json"].map(|kind| folder.string(&format!("{i}.{kind}")));
            std::fs::copy(data("adm_a.pt"), &model).unwrap();
            std::fs::write(beside, json).unwrap();
            let out = folder.string(&format!("out-{i}"));
            let arguments = ["restore", &photo, "--model", &model, "--task", "sr2", "--steps", "1", "--out", &out];
            row(json, arguments, *code, phrase)
        };
        cases.iter().enumerate().map(row).collect()
    };
    check(&rows(&[
        (r#"{"num_head_chanels": 32}"#, 2, "unknown key num_head_chanels; did you mean num_head_channels?"),
        (r#"{"colour": 1}"#, 2, "unknown key colour"),
        (r#"{"num_heads": 2, "predict_xstart": true}"#, 2, "predict_xstart is true; only false is supported"),
        (r#"{"num_heads": 2, "num_heads_upsample": 4}"#, 2, "num_heads_upsample is 4; only -1 is supported"),
        (r#"{"num_heads": 2, "large_size": 256}"#, 2, "large_size is for an upsampler"),
        (r#"{"num_heads": 0}"#, 2, "num_heads is 0, expected a whole number from 1"),
        (r#"{"num_heads": 2.5}"#, 2, "num_heads is 2.5, expected a whole number"),
        (r#"{"num_heads": 3}"#, 2, "num_heads: an attention of 64 channels does not divide into 3 heads"),
        (r#"{"num_heads": 2, "use_new_attention_order": "maybe"}"#, 2, "use_new_attention_order is \"maybe\""),
        (r#"{"num_heads": 2, "noise_schedule": "sigmoid"}"#, 2, "noise_schedule is \"sigmoid\""),
        (r#"{"num_heads": 2, "steps": 10}"#, 2, "steps is 10, expected a whole number from 21"),
        (r#"{"num_heads": 2, "norm_groups": 24}"#, 2, "norm_groups"),
        (r#"{"num_heads": 2, "num_channels": 64}"#, 2, "num_channels is 64, but the shapes of the tensors say 32"),
        (r#"{"num_heads": 2, "channel_mult": "1,2,4"}"#, 2, "channel_mult is \"1,2,4\", but the shapes"),
        (r#"{"num_heads": 2, "channel_mult": "1,x"}"#, 2, "channel_mult is \"1,x\", expected numbers"),
        (
            r#"{"num_heads": 2, "learn_sigma": false}"#,
            2,
            "learn_sigma is false, but the shapes of the tensors say true",
        ),
        (r#"{"num_heads": 2, "num_classes": 1000}"#, 2, "num_classes is 1000, but the shapes of the tensors say 10"),
        (r#"{"num_heads": 2, "attention_resolutions": "16"}"#, 2, "attention_resolutions means nothing without"),
        (r#"{"num_heads": 2, "attention_resolutions": "0", "image_size": 64}"#, 2, "attention_resolutions holds 0"),
        (r#"{"num_heads": 2, "image_size": 63}"#, 2, "image_size is 63"),
        (r#"["num_heads", 2]"#, 2, "not a JSON object"),
        (r#"{"num_heads": 2"#, 2, "not JSON"),
        // guided-diffusion's own spellings and values.
        (
            r#"{"num_heads": 2, "num_head_channels": -1, "num_heads_upsample": -1, "channel_mult": "", "dropout": 0.1}"#,
            0,
            "residual",
        ),
        (
            r#"{"image_size": 64, "num_channels": 32, "attention_resolutions": "32", "num_heads": "2", "class_cond": "True"}"#,
            0,
            "residual",
        ),
    ]));
}

#[test]
fn a_table_of_the_schedule_in_the_file_is_believed() {
    let folder = Folder::new();
    let config =
        AdmConfig { model_channels: 32, num_res_blocks: 1, channel_mult: vec![1.0, 2.0], ..AdmConfig::default() };
    let f32s = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<_>>();
    let [cosine, linear] =
        [(NoiseSchedule::Cosine, 1000), (NoiseSchedule::Linear, 250)].map(|(schedule, steps)| schedule.betas(steps));
    let roots: Vec<f64> = alpha_bars(&linear).iter().map(|a| a.sqrt()).collect();
    let tables = [
        ("betas", f32s(&cosine)),
        ("alphas_cumprod", f32s(&alpha_bars(&cosine))),
        ("sqrt_alphas_cumprod", f32s(&roots)),
        ("betas", vec![0.5; 1000]),
    ];
    let files: Vec<String> = (tables.iter().enumerate())
        .map(|(i, (name, values))| sparse_with(&folder, &format!("{i}.safetensors"), &config, name, values))
        .collect();
    let of = |path: &str| AdmConfig::identify(&Checkpoint::open(Path::new(path)).unwrap()).unwrap();
    for (path, expected) in files.iter().zip([("cosine", 1000), ("cosine", 1000), ("linear", 250)]) {
        let found = of(path);
        assert_eq!((found.config.noise_schedule.name(), found.config.diffusion_steps), expected, "{path}");
        let warning = found.warning.unwrap_or_default();
        assert!(!warning.contains("schedule") && !warning.contains("diffusion_steps"), "{warning}");
    }
    std::fs::write(folder.path("0.json"), r#"{"noise_schedule": "cosine", "steps": 1000}"#).unwrap();
    assert_eq!(of(&files[0]).config.noise_schedule, NoiseSchedule::Cosine);
    std::fs::write(folder.path("1.json"), r#"{"noise_schedule": "linear"}"#).unwrap();
    let refused =
        |path: &str| AdmConfig::identify(&Checkpoint::open(Path::new(path)).unwrap()).unwrap_err().to_string();
    let contradiction =
        "1.json says a linear schedule of 1000 steps, but the tables beside the weights are cosine of 1000";
    assert!(refused(&files[1]).contains(contradiction), "{}", refused(&files[1]));
    let unknown = "its table betas of 1000 steps is none of the schedules linear, cosine, scaled_linear";
    assert!(refused(&files[3]).contains(unknown), "{}", refused(&files[3]));
}

/// Puts `value` in place of a key of a JSON file.
fn set(path: &Path, key: &str, value: &str) {
    let mut json = crate::table::json(path);
    json[key] = serde_json::from_str(value).unwrap();
    std::fs::write(path, json.to_string()).unwrap();
}

#[test]
fn parts_of_other_kinds_are_refused_by_class() {
    let folder = Folder::new();
    let out = folder.string("out.safetensors");
    let change = |name: &str, file: &str, key: &str, value: &str| {
        copy(&data("latent_sd2"), &folder.path(name));
        set(&folder.path(name).join(file), key, value);
        folder.string(name)
    };
    let opened = |name: &'static str, file: &str, key: &str, value: &str, code: i32, phrase: &'static str| {
        row(name, ["info", &change(name, file, key, value)], code, phrase)
    };
    let embedded = |name: &'static str, key: &str, value: &str, phrase: &'static str| {
        let model = change(name, "text_encoder/config.json", key, value);
        row(name, ["eval", "--model", &model, "--part", "text", "--prompt", "", "--out", &out], 2, phrase)
    };
    let (unet, vae, scheduler) = ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json");
    check(&[
        opened("unet", unet, "_class_name", r#""UNet2DModel""#, 2, "_class_name is \"UNet2DModel\""),
        opened("vae", vae, "_class_name", r#""AsymmetricAutoencoderKL""#, 2, "\"AsymmetricAutoencoderKL\""),
        opened("flow", scheduler, "_class_name", r#""FlowMatchEulerDiscreteScheduler""#, 2, "FlowMatchEulerDiscrete"),
        opened("edm", scheduler, "_class_name", r#""EDMEulerScheduler""#, 2, "_class_name is EDMEulerScheduler"),
        opened("std", vae, "latents_std", "[1.0, 1.0, 1.0, 1.0]", 2, "latents_std is [1.0,1.0,1.0,1.0]"),
        opened("mean", vae, "latents_mean", "[0.0, 0.0, 0.0, 0.0]", 2, "latents_mean is"),
        opened("v", scheduler, "prediction_type", r#""sample""#, 2, "prediction_type is sample"),
        opened("zero", unet, "layers_per_block", "0", 2, "layers_per_block is 0, expected a whole number from 1"),
        opened("many", unet, "layers_per_block", "4000000000", 2, "layers_per_block is 4000000000"),
        opened("groups", vae, "norm_num_groups", "-1", 2, "norm_num_groups is -1"),
        opened("unknown", unet, "frobnicate", "3", 2, "frobnicate is 3, an option that is not known"),
        opened("unknown and off", unet, "frobnicate", "false", 0, "complete"),
        embedded("t5", "_class_name", r#""T5EncoderModel""#, "_class_name is \"T5EncoderModel\""),
        embedded("t5 too", "architectures", r#"["T5EncoderModel"]"#, "architectures is [\"T5EncoderModel\"]"),
    ]);
}

#[test]
fn a_scheduler_without_betas_has_the_defaults_of_diffusers() {
    let of = |text: &str| SchedulerConfig::of_text(Path::new("scheduler_config.json"), text);
    let plain = of(r#"{"_class_name": "DDIMScheduler"}"#).unwrap();
    assert_eq!((plain.noise_schedule.name(), plain.num_train_timesteps, plain.betas_assumed), ("linear", 1000, true));
    assert_eq!(plain.prediction_type, "epsilon");
    // Half of a schedule: the other half is a default, and the two do not fit.
    for half in [r#"{"beta_schedule": "scaled_linear"}"#, r#"{"beta_start": 0.00085, "beta_end": 0.012}"#] {
        let said = of(half).unwrap_err().to_string();
        assert!(said.contains("beta_schedule") && said.contains("is not supported"), "{said}");
    }
    let folder = Folder::new();
    copy(&data("latent_sd2"), &folder.path("model"));
    std::fs::write(folder.path("model/scheduler/scheduler_config.json"), r#"{"_class_name": "DDIMScheduler"}"#)
        .unwrap();
    check(&[row("no betas", ["info", &folder.string("model")], 0, "linear, the default of diffusers, is assumed")]);
}

#[test]
fn special_tokens_of_a_prompt_are_one_token_each() {
    let folder = Folder::new();
    let embed = |model: &str, prompt: &str| {
        let out = folder.string("embedded.safetensors");
        let model = folder.string(model);
        check(&[row(
            "a prompt",
            ["eval", "--model", &model, "--part", "text", "--prompt", prompt, "--out", &out],
            0,
            "wrote",
        )]);
        Checkpoint::open(Path::new(&out)).unwrap().values("output").unwrap()
    };
    let of_tokens = |model: &str, tokens: &[i64]| {
        let [input, out] = ["tokens.safetensors", "embedded.safetensors"].map(|f| folder.string(f));
        let header = r#"{"tokens":{"dtype":"I64","shape":[7],"data_offsets":[0,56]}}"#;
        let bytes: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
        std::fs::write(&input, safetensors(header, &bytes)).unwrap();
        let model = folder.string(model);
        check(&[row(
            "whole numbers",
            ["eval", "--model", &model, "--part", "text", "--input", &input, "--out", &out],
            0,
            "wrote",
        )]);
        Checkpoint::open(Path::new(&out)).unwrap().values("output").unwrap()
    };
    // The same vocabulary as one file, as transformers writes it.
    copy(&data("latent_sd2"), &folder.path("parts"));
    copy(&data("latent_sd2"), &folder.path("whole"));
    let parts = folder.path("whole/tokenizer");
    let merges = std::fs::read_to_string(parts.join("merges.txt")).unwrap();
    let merges: Vec<&str> = merges.lines().filter(|l| !l.starts_with('#')).collect();
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false})
    };
    let whole = serde_json::json!({
        "version": "1.0",
        "added_tokens": [special(48, "<|startoftext|>"), special(49, "<|endoftext|>")],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\w+|[^\\s\\w]+"}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
        "model": {"type": "BPE", "unk_token": "<|endoftext|>", "end_of_word_suffix": "</w>",
            "vocab": crate::table::json(&parts.join("vocab.json")), "merges": merges},
    });
    std::fs::write(parts.join("tokenizer.json"), whole.to_string()).unwrap();
    for file in ["vocab.json", "merges.txt"] {
        std::fs::remove_file(parts.join(file)).unwrap();
    }
    let prompt = "a<|startoftext|>photo<|endoftext|>dog";
    let expected = of_tokens("parts", &[48, 14, 48, 36, 49, 32, 49]);
    assert_eq!(embed("parts", prompt), expected);
    assert_eq!(embed("whole", prompt), expected);

    let text = std::fs::read_to_string(parts.join("tokenizer.json")).unwrap();
    let model = folder.string("whole");
    let out = folder.string("refused.safetensors");
    for damaged in [&text[..text.len() / 2], "{}", &text.replace("\"do\"", "\"od\"")] {
        std::fs::write(parts.join("tokenizer.json"), damaged).unwrap();
        let arguments = ["eval", "--model", &model, "--part", "text", "--prompt", "dog", "--out", &out];
        check(&[row("a damaged tokenizer", arguments, 2, "tokenizer.json: it can't be used")]);
    }
}

#[test]
fn labels_and_timesteps_of_eval_are_whole_numbers_in_range() {
    let folder = Folder::new();
    let image: Vec<u8> = (0..8 * 8 * 3).flat_map(|i| (i as f32 * 0.01).to_le_bytes()).collect();
    let rows = |cases: &[(&'static str, i64, i64, i32, &'static str)]| -> Vec<Row> {
        let row = |&(name, t, label, code, phrase): &(&'static str, i64, i64, i32, &'static str)| {
            let header = r#"{"x":{"dtype":"F32","shape":[1,8,8,3],"data_offsets":[0,768]},
                "t":{"dtype":"I64","shape":[1],"data_offsets":[768,776]},
                "labels":{"dtype":"I64","shape":[1],"data_offsets":[776,784]}}"#;
            let bytes = [&image[..], &t.to_le_bytes(), &label.to_le_bytes()].concat();
            let input = folder.string(&format!("{name}.safetensors"));
            std::fs::write(&input, safetensors(header, &bytes)).unwrap();
            let model = data("adm_a.safetensors").display().to_string();
            let out = folder.string("out.safetensors");
            row(name, ["eval", "--model", &model, "--input", &input, "--out", &out], code, phrase)
        };
        cases.iter().map(row).collect()
    };
    check(&rows(&[
        ("whole numbers", 500, 9, 0, "wrote output, x0"),
        ("a label too large", 500, 10, 2, "tensor labels holds 10; the model has 10 classes, 0 to 9"),
        ("a negative label", 500, -1, 2, "tensor labels holds -1"),
        ("a timestep too large", 1000, 0, 2, "t is 1000; expected a number from 0 to 999"),
        ("a number that f32 can't hold", 16777217, 0, 2, "16777217 at position 0"),
    ]));
}
