//! Conditional score estimators against ControlNets of diffusers and of tools/adm.py, over models
//! with random weights: tools/reference_cse.py made the data.

use dmap::backend::Device;
use dmap::compare::relative_error;
use dmap::executor::Executor;
use dmap::graph::{Graph, PlanOptions, Shape, backward};
use dmap::model::{Conditioning, Model};
use dmap::noise::{Draw, NoiseKey, fill_normal};
use dmap::operator::{Operator, baseline, parse_task};
use dmap::sampler::{Item, Measurement, Noise, Restorer, Settings, Spacing};
use dmap::weights::{Checkpoint, write_safetensors_with};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A model of tests/data with its estimator, and what PyTorch computes with the two.
struct Case {
    name: &'static str,
    model: &'static str,
    control: &'static str,
    reference: &'static str,
    /// Names in `reference`, or else in the second file.
    x: &'static str,
    t: &'static str,
    second: Option<&'static str>,
    /// Step sizes of DPS and DMAP.
    zeta: [f64; 2],
}

const CASES: [Case; 3] = [
    Case {
        name: "sd1",
        model: "latent_sd1",
        control: "latent_sd1/controlnet",
        reference: "latent_sd1/controlnet/reference.safetensors",
        x: "unet.x",
        t: "unet.t",
        second: Some("latent_sd1/reference.safetensors"),
        zeta: [100.0; 2],
    },
    Case {
        name: "sd2",
        model: "latent_sd2",
        control: "latent_sd2/controlnet",
        reference: "latent_sd2/controlnet/reference.safetensors",
        x: "unet.x",
        t: "unet.t",
        second: Some("latent_sd2/reference.safetensors"),
        zeta: [0.8; 2],
    },
    Case {
        name: "pixels",
        model: "adm_control.safetensors",
        control: "adm_control_cse.safetensors",
        reference: "adm_control_io.safetensors",
        x: "x",
        t: "t",
        second: None,
        zeta: [1.0, 5.0],
    },
];

impl Case {
    fn open(&self, scale: f64) -> Model {
        Model::open(data(self.model)).unwrap().with_control(&data(self.control), scale).unwrap()
    }

    fn file(&self, tensor: &str) -> Checkpoint {
        let first = Checkpoint::open(&data(self.reference)).unwrap();
        match self.second.filter(|_| !first.tensors.contains_key(tensor)) {
            Some(second) => Checkpoint::open(&data(second)).unwrap(),
            None => first,
        }
    }

    fn values(&self, tensor: &str) -> Vec<f32> {
        self.file(tensor).values(tensor).unwrap()
    }

    fn shape(&self, tensor: &str) -> Shape {
        let [n, h, w, c] = self.file(tensor).tensors[tensor].shape[..] else { panic!("{tensor} has four extents") };
        Shape::new(n, h, w, c)
    }
}

fn expect(what: &str, found: &[f32], expected: &[f32], limit: f64) {
    let error = relative_error(found, expected);
    assert!(error <= limit, "{what}: relative error {error:.2e}");
}

/// Output of the network for the stored inputs, and the VJP of the stored v. Without a condition it
/// is the prior alone.
fn evaluate(case: &Case, model: &Model, is_conditional: bool) -> [Vec<f32>; 2] {
    let mut g = Graph::new();
    let x = g.input("x", case.shape(case.x));
    let t = g.input("t", Shape::rows(g.shape(x).n, 1));
    let condition = is_conditional.then(|| g.input("condition", case.shape("condition")));
    let out = model.network.record(&mut g, x, t, &Conditioning::default().condition(condition)).unwrap();
    let v = g.input("v", g.shape(out));
    let dx = backward(&mut g, out, v, x).unwrap();
    g.output(out);
    g.output(dx);
    let mut e = Executor::new(g, &PlanOptions::default(), &model.weights, &Device::cpu()).unwrap();
    e.set_poison(true);
    let inputs = [(Some(x), case.x), (Some(t), case.t), (Some(v), "v"), (condition, "condition")];
    for (id, name) in inputs.into_iter().filter_map(|(id, name)| Some((id?, name))) {
        e.write(id, &case.values(name)).unwrap();
    }
    e.run().unwrap();
    [e.read(out).unwrap(), e.read(dx).unwrap()]
}

#[test]
fn outputs_and_vjps_equal_those_of_pytorch_at_every_scale() {
    for case in CASES {
        let outputs = [1.0, 0.7].map(|scale| {
            let found = evaluate(&case, &case.open(scale), true);
            for (what, found) in ["output", "vjp"].into_iter().zip(&found) {
                let what = format!("{what}.{scale}");
                expect(&format!("{} {what}", case.name), found, &case.values(&what), 1e-5);
            }
            found
        });
        // The test would see a scale that is ignored, and an estimator that does nothing.
        let prior = evaluate(&case, &Model::open(data(case.model)).unwrap(), false);
        for (a, b) in [(&outputs[0], &outputs[1]), (&outputs[0], &prior)] {
            assert!((0..2).all(|k| relative_error(&a[k], &b[k]) > 1e-2), "{}", case.name);
        }
    }
}

#[test]
fn without_its_condition_a_model_is_the_prior_alone() {
    for case in CASES {
        let prior = evaluate(&case, &Model::open(data(case.model)).unwrap(), false);
        assert_eq!(evaluate(&case, &case.open(1.0), false), prior, "{}", case.name);
    }
}

/// x after five steps of a method on the stored measurement, which is a whole image.
fn chain(case: &Case, model: &Model, method: &str) -> Vec<f32> {
    let settings = Settings::parse(method, &model.network.prior()).unwrap().steps(5);
    let is_latent = model.network.prior().latent.is_some();
    let settings = settings.spacing(if is_latent { Spacing::Linspace } else { Spacing::Linear });
    let operator = parse_task("denoise").unwrap();
    let image = case.shape("chain.y");
    let mut restorer =
        Restorer::new(model, &operator, &settings, image, PlanOptions::default(), &Device::cpu()).unwrap();
    restorer.set_poison(true);
    let measurement = Measurement::new(case.values("chain.y"), Vec::new(), 0.0);
    let mut run = restorer.start(&[Item::new(measurement, 7)]).unwrap();
    let mut x = Vec::new();
    while let Some(now) = run.step().unwrap() {
        x = now.x().unwrap();
    }
    x
}

#[test]
fn five_steps_equal_a_transcription_with_the_same_noise() {
    for case in CASES {
        let model = case.open(1.0);
        let [dps, dmap] = case.zeta;
        let methods = [
            ("cse", "cse".to_string()),
            ("dps", format!("dps:step=published:{dps}")),
            ("dmap", format!("dmap:k=2,step=published:{dmap}")),
            ("dsg", "dsg:share=0.2,through=both".into()),
            ("dps.prior", format!("dps:step=published:{dps},through=prior")),
            ("dsg.prior", "dsg:share=0.2,through=prior".into()),
            ("dmap.prior", format!("dmap:k=2,step=published:{dmap},through=prior")),
        ];
        for (name, method) in methods {
            let found = chain(&case, &model, &method);
            expect(&format!("{} {name}", case.name), &found, &case.values(&format!("chain.{name}")), 1e-4);
        }
    }
}

/// Writes a ControlNet with other values, in f32; its path. `change` gets each tensor by name.
fn write_changed(from: &Path, to: &Path, metadata: &[(&str, String)], change: impl Fn(&str, &mut Vec<f32>)) {
    let file = Checkpoint::open(from).unwrap();
    let tensors: Vec<_> = (file.tensors.iter())
        .map(|(name, tensor)| {
            let mut values = file.values(name).unwrap();
            change(name, &mut values);
            (&name[..], tensor.shape.clone(), values)
        })
        .collect();
    let tensors: Vec<_> = tensors.iter().map(|(n, s, v)| (*n, s.clone(), &v[..])).collect();
    write_safetensors_with(to, &tensors, metadata).unwrap();
}

#[test]
fn zero_convolutions_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let is_zero = |name: &str| name.starts_with("controlnet_down_blocks") || name.starts_with("controlnet_mid_block");
    let clear = |name: &str, values: &mut Vec<f32>| values.iter_mut().filter(|_| is_zero(name)).for_each(|v| *v = 0.0);
    for case in CASES {
        let file = "diffusion_pytorch_model.safetensors";
        let path = if data(case.control).is_dir() {
            let path = folder.path().join(case.name);
            std::fs::create_dir(&path).unwrap();
            std::fs::copy(data(case.control).join("config.json"), path.join("config.json")).unwrap();
            write_changed(&data(case.control).join(file), &path.join(file), &[], clear);
            path
        } else {
            let config = Checkpoint::open(&data(case.control)).unwrap().metadata["config"].clone();
            let path = folder.path().join("zero.safetensors");
            write_changed(&data(case.control), &path, &[("config", config)], clear);
            path
        };
        let plain = Model::open(data(case.model)).unwrap();
        let model = Model::open(data(case.model)).unwrap().with_control(&path, 1.0).unwrap();
        for method in ["dps", "dmap:k=2"] {
            assert_eq!(chain(&case, &model, method), chain(&case, &plain, method), "{} {method}", case.name);
        }
    }
}

/// A file of tensors that make a ControlNet of the ADM UNet in `model`: a copy of its encoder half,
/// and an embedding and zero convolutions that are zero.
fn untrained(model: &str, path: &Path) {
    let base = Checkpoint::open(&data(model)).unwrap();
    let is_encoder = |name: &str| !name.starts_with("output_blocks.") && !name.starts_with("out.");
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = (base.tensors.iter())
        .filter(|(name, _)| is_encoder(name))
        .map(|(name, t)| (name.clone(), t.shape.clone(), base.values(name).unwrap()))
        .collect();
    let mut conv = |name: String, out: usize, input: usize, side: usize| {
        tensors.push((format!("{name}.weight"), vec![out, input, side, side], vec![0.0; out * input * side * side]));
        tensors.push((format!("{name}.bias"), vec![out], vec![0.0; out]));
    };
    // The channels of an input block are those of the last layer in it that has a bias and is no
    // projection of the time embedding.
    let channels = |block: &str| {
        let ends = ["0.op.bias", "0.out_layers.3.bias", "0.bias"];
        let found = ends.iter().find_map(|end| base.tensors.get(&format!("{block}.{end}")));
        found.map(|t| t.shape[0])
    };
    let mut last = channels("input_blocks.0").unwrap();
    let (first, middle) = (last, channels("middle_block").unwrap());
    for k in 0.. {
        let is_there = base.tensors.keys().any(|n| n.starts_with(&format!("input_blocks.{k}.")));
        // A pooling has no tensors; if nothing follows it, the level would have no block.
        let follows = base.tensors.keys().any(|n| n.starts_with(&format!("input_blocks.{}.", k + 1)));
        if !is_there && !follows {
            break;
        }
        last = channels(&format!("input_blocks.{k}")).unwrap_or(last);
        conv(format!("controlnet_down_blocks.{k}"), last, last, 1);
    }
    conv("controlnet_mid_block".into(), middle, middle, 1);
    conv("controlnet_cond_embedding.conv_in".into(), 4, 3, 3);
    conv("controlnet_cond_embedding.blocks.0".into(), 4, 4, 3);
    conv("controlnet_cond_embedding.blocks.1".into(), 8, 4, 3);
    conv("controlnet_cond_embedding.conv_out".into(), first, 8, 3);
    let config = r#"{"conditioning_channels":3,"conditioning_embedding_out_channels":[4,8]}"#;
    let tensors: Vec<_> = tensors.iter().map(|(n, s, v)| (&n[..], s.clone(), &v[..])).collect();
    write_safetensors_with(path, &tensors, &[("config", config.to_string())]).unwrap();
}

/// The restored images of two measurements of a task with odd extents, in batches of `batch`.
fn restored(model: &Model, operator: &Arc<dyn Operator>, method: &str, batch: usize) -> Vec<Vec<f32>> {
    let image = Shape::new(batch, 13, 18, 3);
    let prior = model.network.prior();
    let settings = Settings::parse(method, &prior).unwrap().steps(2);
    let mut restorer =
        Restorer::new(model, operator, &settings, image, PlanOptions::default(), &Device::cpu()).unwrap();
    restorer.set_poison(true);
    let items: Vec<Item> = (0..2)
        .map(|k| {
            let wave = |i: usize| (i as f32 * [0.1, 0.03][k]).sin() * [0.5, -0.9][k];
            let x: Vec<f32> = (0..image.item()).map(wave).collect();
            let one = Shape { n: 1, ..image };
            let drawn =
                Measurement::simulate(operator.as_ref(), one, &x, Noise::Gaussian(0.025), 3 + k as u64).unwrap();
            Item::new(drawn.0, 5).label(prior.classes.map(|_| 3))
        })
        .collect();
    let restore = |items: &[Item]| restorer.restore(items, |_| ControlFlow::Continue(())).unwrap();
    items.chunks(batch).flat_map(restore).map(|r| r.picture.values).collect()
}

#[test]
fn every_switch_of_the_adm_family_has_a_controlnet() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["adm_a.safetensors", "adm_b.safetensors", "adm_c.safetensors"] {
        let path = folder.path().join(name);
        untrained(name, &path);
        let plain = Model::open(data(name)).unwrap();
        let model = Model::open(data(name)).unwrap().with_control(&path, 1.0).unwrap();
        let operator = parse_task("inpaint-random").unwrap();
        let of = |model: &Model| restored(model, &operator, "dps", 2);
        assert_eq!(of(&model), of(&plain), "{name}");
    }
}

#[test]
fn every_item_of_a_batch_has_its_own_condition() {
    for case in CASES {
        let model = case.open(1.0);
        for task in ["sr2", "inpaint-random"] {
            let operator = parse_task(task).unwrap();
            let of = |batch| restored(&model, &operator, "cse", batch);
            let (both, single) = (of(2), of(1));
            for (k, (a, b)) in both.iter().zip(&single).enumerate() {
                expect(&format!("{} {task}, item {k}", case.name), a, b, 1e-5);
            }
            let apart = relative_error(&both[0], &both[1]);
            assert!(apart > 1e-3, "{} {task}: the measurement is not read, {apart:.1e}", case.name);
        }
    }
}

/// x after a chain of one step, and what an evaluation at its start gives with `condition`. With
/// `from` the chain starts at this sigma from the condition.
fn one_step(
    model: &Model,
    from: Option<f64>,
    task: &str,
    image: Shape,
    m: &Measurement,
    condition: &[f32],
) -> [Vec<f32>; 2] {
    let (operator, prior) = (parse_task(task).unwrap(), model.network.prior());
    let method = from.map_or("cse".into(), |from| format!("cse:from={from}"));
    let settings = Settings::parse(&method, &prior).unwrap().steps(1).clip(false);
    let settings = if from.is_none() { settings.spacing(Spacing::Linspace) } else { settings };
    let mut restorer =
        Restorer::new(model, &operator, &settings, image, PlanOptions::default(), &Device::cpu()).unwrap();
    let mut run = restorer.start(&[Item::new(m.clone(), 7)]).unwrap();
    let found = run.step().unwrap().unwrap().x().unwrap();

    let (schedule, canvas) = (settings.check(&prior, operator.as_ref()).unwrap(), prior.canvas(image));
    let mut start = vec![0.0; canvas.item()];
    fill_normal(&NoiseKey { seed: 7, image: 0, step: 0, draw: Draw::Start }.to_words(), 0, &mut start);
    let bar = schedule.alpha_bar[0];
    match from {
        None => start.iter_mut().for_each(|x| *x *= schedule.start as f32),
        Some(from) => {
            assert!((((1.0 - bar) / bar).sqrt() / from - 1.0).abs() < 1e-9);
            let noisy = |(n, x): (&mut f32, &f32)| *n = bar.sqrt() as f32 * x + (1.0 - bar).sqrt() as f32 * *n;
            start.iter_mut().zip(condition).for_each(noisy);
        }
    }
    let mut g = Graph::new();
    let (x, t, c) = (g.input("x", canvas), g.input("t", Shape::rows(1, 1)), g.input("condition", canvas));
    let out = model.network.record(&mut g, x, t, &Conditioning::default().condition(c)).unwrap();
    g.output(out);
    let mut e = Executor::new(g, &PlanOptions::default(), &model.weights, &Device::cpu()).unwrap();
    e.write(x, &start).unwrap();
    e.write(t, &[schedule.timesteps[0] as f32]).unwrap();
    e.write(c, condition).unwrap();
    e.run().unwrap();
    let clean = |(x, eps): (&f32, f32)| ((f64::from(*x) - (1.0 - bar).sqrt() * f64::from(eps)) / bar.sqrt()) as f32;
    [found, start.iter().zip(e.read(out).unwrap()).map(clean).collect()]
}

#[test]
fn the_condition_is_the_naive_restoration_continued_over_the_canvas() {
    let model = CASES[2].open(1.0);
    for (task, h, w, kind) in [("sr2", 12, 16, "bicubic"), ("inpaint-random", 13, 17, "nearest pixel")] {
        let (operator, image) = (parse_task(task).unwrap(), Shape::new(1, h, w, 3));
        let x: Vec<f32> = (0..image.item()).map(|i| (i as f32 * 0.1).sin() * 0.5).collect();
        let m = Measurement::simulate(operator.as_ref(), image, &x, Noise::Gaussian(0.025), 3).unwrap().0;
        let (name, naive) = baseline(operator.as_ref(), &m.y, &m.state, image);
        assert_eq!(name, kind);
        let canvas = model.network.prior().canvas(image);
        let at = |i: usize| {
            let (row, column, channel) = (i / 3 / canvas.w, i / 3 % canvas.w, i % 3);
            naive.values[(row.min(h - 1) * w + column.min(w - 1)) * 3 + channel]
        };
        let condition: Vec<f32> = (0..canvas.item()).map(at).collect();
        for from in [None, Some(2.0)] {
            let [found, expected] = one_step(&model, from, task, image, &m, &condition);
            expect(&format!("{task}, {from:?}"), &found, &expected, 1e-5);
            // The test would see another condition.
            let [_, other] = one_step(&model, from, task, image, &m, &vec![0.0; canvas.item()]);
            let apart = relative_error(&found, &other);
            assert!(apart > 1e-3, "{task}: {apart:.1e}");
        }
    }
}
