//! Latent diffusion against diffusers and transformers: tools/reference_latent.py made the data,
//! from two small models with random weights in the shapes of Stable Diffusion 1.x and 2.x.

use dmap::backend::Device;
use dmap::compare::relative_error;
use dmap::executor::Executor;
use dmap::graph::{Graph, PlanOptions, Shape, TensorId, backward};
use dmap::model::stable_diffusion::TEXT_EMBEDDING;
use dmap::model::{Conditioning, Model, Network};
use dmap::operator::parse_task;
use dmap::sampler::{Item, METHODS, Measurement, Restorer, Settings, Spacing};
use dmap::weights::Checkpoint;
use std::path::{Path, PathBuf};

const NAMES: [&str; 2] = ["sd1", "sd2"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(format!("latent_{name}"))
}

fn open(name: &str) -> (Model, Checkpoint) {
    (Model::open(folder(name)).unwrap(), Checkpoint::open(&folder(name).join("reference.safetensors")).unwrap())
}

fn shape(file: &Checkpoint, name: &str) -> Shape {
    let [n, h, w, c] = file.tensors[name].shape[..] else { panic!("{name} has four extents") };
    Shape::new(n, h, w, c)
}

fn expect(what: &str, found: &[f32], expected: &[f32], limit: f64) {
    let error = relative_error(found, expected);
    assert!(error <= limit, "{what}: relative error {error:.2e}");
}

/// Output of a part of a model for the stored x, and the VJP of the stored v.
fn evaluate(
    model: &Model,
    file: &Checkpoint,
    part: &str,
    record: impl Fn(&dyn Network, &mut Graph, TensorId) -> TensorId,
) -> (Vec<f32>, Vec<f32>) {
    let mut g = Graph::new();
    let x = g.input("x", shape(file, &format!("{part}.x")));
    let out = record(model.network.as_ref(), &mut g, x);
    let v = g.input("v", g.shape(out));
    let dx = backward(&mut g, out, v, x).unwrap();
    g.output(out);
    g.output(dx);
    let t = g.tensors().iter().position(|t| t.name == "t");
    let mut e = Executor::new(g, &PlanOptions::default(), &model.weights, &Device::cpu()).unwrap();
    e.set_poison(true);
    e.write(x, &file.values(&format!("{part}.x")).unwrap()).unwrap();
    e.write(v, &file.values(&format!("{part}.v")).unwrap()).unwrap();
    if t.is_some() {
        let t = e.graph().nodes()[0].inputs[0];
        e.write(t, &file.values(&format!("{part}.t")).unwrap()).unwrap();
    }
    e.run().unwrap();
    (e.read(out).unwrap(), e.read(dx).unwrap())
}

#[test]
fn the_text_encoder_gives_the_hidden_states_of_transformers() {
    for name in NAMES {
        let (model, file) = open(name);
        let expected = file.values(TEXT_EMBEDDING).unwrap();
        let [_, tokens, c] = file.tensors[TEXT_EMBEDDING].shape[..] else { panic!("three extents") };
        let found = model.weights.get(TEXT_EMBEDDING, Shape::new(1, 1, tokens, c)).unwrap();
        expect(name, &found, &expected, 1e-5);
    }
}

#[test]
fn unet_encoder_and_decoder_and_their_vjps_equal_those_of_diffusers() {
    for name in NAMES {
        let (model, file) = open(name);
        let unet = evaluate(&model, &file, "unet", |network, g, x| {
            let t = g.input("t", Shape::rows(g.shape(x).n, 1));
            network.record(g, x, t, &Conditioning::default()).unwrap()
        });
        let encoder =
            evaluate(&model, &file, "encoder", |network, g, x| network.codec().unwrap().encode(g, x).unwrap());
        // The engine decodes scaled codes: 0.18215 z.
        let decoder = evaluate(&model, &file, "decoder", |network, g, x| {
            let scaled = g.one(dmap::ops::add::Scale { scale: 0.18215 }, "scaled", &[x]).unwrap();
            network.codec().unwrap().decode(g, scaled).unwrap()
        });
        for (part, (out, dx)) in [("unet", unet), ("encoder", encoder), ("decoder", decoder)] {
            expect(&format!("{name} {part}"), &out, &file.values(&format!("{part}.output")).unwrap(), 1e-5);
            expect(&format!("{name} VJP of {part}"), &dx, &file.values(&format!("{part}.vjp")).unwrap(), 1e-5);
        }
    }
}

/// x after five steps on a whole image as the measurement.
fn chain(name: &str, model: &Model, file: &Checkpoint, method: &str) -> Vec<f32> {
    // As tools/reference_latent.py has them for each model.
    let (zeta, consistency, text_rate) = if name == "sd1" { (100.0, 0.3, 100.0) } else { (0.8, 30.0, 2.0) };
    let step = format!("step=published:{zeta}");
    let method = match method {
        "dmap" => format!("dmap:k=2,{step}"),
        "dsg" => "dsg:share=0.2".into(),
        "lgd" => format!("lgd:samples=2,{step}"),
        "freedom" => format!("freedom:passes=2,{step}"),
        "psld" => format!("psld:gamma={consistency},{step}"),
        "stsl" => format!("stsl:k=2,weight={consistency},{step}"),
        "resample" => format!("resample:iterations=2,rate=0.05,{step}"),
        "p2l" => format!("p2l:k=2,rate={text_rate},{step}"),
        "daps" => "daps:k=2,ode=2,rate=0.02,tau=0.5,from=10,end=0.001".into(),
        "unconditional" => method.into(),
        other => format!("{other}:{step}"),
    };
    let usual = Settings::parse(&method, &model.network.prior()).unwrap();
    // DAPS has levels of its own.
    let settings = if method.starts_with("daps") { usual.steps(5) } else { usual.steps(5).spacing(Spacing::Linspace) };
    let image = shape(file, "chain.y");
    let operator = parse_task("denoise").unwrap();
    let mut restorer =
        Restorer::new(model, &operator, &settings, image, PlanOptions::default(), &Device::cpu()).unwrap();
    restorer.set_poison(true);
    let measurement = Measurement::new(file.values("chain.y").unwrap(), Vec::new(), 0.0);
    let mut run = restorer.start(&[Item::new(measurement, 7)]).unwrap();
    let mut x = Vec::new();
    while let Some(now) = run.step().unwrap() {
        x = now.x().unwrap();
    }
    x
}

#[test]
fn five_steps_equal_a_transcription_in_sigma_space_with_the_same_noise() {
    for name in NAMES {
        let (model, file) = open(name);
        // tests/proximal.rs has the others.
        let is_here = |name: &str| file.tensors.contains_key(&format!("chain.{name}"));
        assert!(
            ["dps", "dmap", "dsg", "lgd", "freedom", "psld", "stsl", "resample", "p2l", "daps"]
                .into_iter()
                .all(is_here)
        );
        for row in METHODS.iter().filter(|r| is_here(r.name)) {
            let what = row.name;
            let expected = file.values(&format!("chain.{what}")).unwrap();
            expect(&format!("{name} {what}"), &chain(name, &model, &file, what), &expected, 1e-4);
        }
    }
}
