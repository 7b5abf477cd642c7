//! The ADM family against guided-diffusion itself: tools/reference_adm.py made the data, from three
//! small networks with random weights that between them use every switch of the configuration.

use dmap::backend::Device;
use dmap::compare::relative_error;
use dmap::executor::Executor;
use dmap::graph::{Graph, PlanOptions, Shape, backward};
use dmap::model::{AdmConfig, Conditioning, Model, NoiseSchedule};
use dmap::sampler::{Schedule, Spacing, Variance};
use dmap::weights::Checkpoint;
use std::path::{Path, PathBuf};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Output and VJP for the stored inputs.
fn evaluate(model: &Model, io: &Checkpoint) -> (Vec<f32>, Vec<f32>) {
    let [n, h, w, c] = io.tensors["x"].shape[..] else { panic!("x has four extents") };
    let mut g = Graph::new();
    let x = g.input("x", Shape::new(n, h, w, c));
    let t = g.input("t", Shape::rows(n, 1));
    let labels = model.network.prior().classes.map(|_| g.input("labels", Shape::rows(n, 1)));
    let out = model.network.record(&mut g, x, t, &Conditioning::default().labels(labels)).unwrap();
    let shape = g.shape(out);
    let v = g.input("v", shape);
    let dx = backward(&mut g, out, v, x).unwrap();
    g.output(out);
    g.output(dx);
    let mut e = Executor::new(g, &PlanOptions::default(), &model.weights, &Device::cpu()).unwrap();
    e.set_poison(true);
    for (name, id) in [("x", x), ("t", t), ("v", v)] {
        e.write(id, &io.values(name).unwrap()).unwrap();
    }
    if let Some(id) = labels {
        e.write(id, &io.values("labels").unwrap()).unwrap();
    }
    e.run().unwrap();
    (e.read(out).unwrap(), e.read(dx).unwrap())
}

#[test]
fn output_and_vjp_equal_those_of_guided_diffusion() {
    for name in ["a", "b", "c"] {
        let model = Model::open(data(&format!("adm_{name}.safetensors"))).unwrap();
        let io = Checkpoint::open(&data(&format!("adm_{name}_io.safetensors"))).unwrap();
        let (out, dx) = evaluate(&model, &io);
        for (what, found) in [("output", out), ("vjp", dx)] {
            let error = relative_error(&found, &io.values(what).unwrap());
            assert!(error <= 1e-5, "{what} of {name}: {error:.2e}");
        }
    }
}

#[test]
fn a_pickled_checkpoint_gives_the_same_network() {
    // Only shapes are known: the number of heads, 2 of 32 channels, is not among them and comes
    // from a JSON beside.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adm_a.pt");
    std::fs::copy(data("adm_a.pt"), &path).unwrap();
    std::fs::write(folder.path().join("adm_a.json"), r#"{"num_heads": 2, "num_head_channels": 0}"#).unwrap();
    let io = Checkpoint::open(&data("adm_a_io.safetensors")).unwrap();
    let (out, _) = evaluate(&Model::open(&path).unwrap(), &io);
    assert!(relative_error(&out, &io.values("output").unwrap()) <= 1e-5);
}

#[test]
fn shapes_tell_everything_but_heads_order_and_rescaling() {
    for name in ["a", "b", "c"] {
        let with_config = Checkpoint::open(&data(&format!("adm_{name}.safetensors"))).unwrap();
        let truth = AdmConfig::of_checkpoint(&with_config).unwrap();
        let mut bare = Checkpoint::open(&data(&format!("adm_{name}.safetensors"))).unwrap();
        bare.metadata.clear();
        let told = AdmConfig::of_checkpoint(&bare).unwrap();
        let hidden = AdmConfig {
            num_heads: truth.num_heads,
            num_head_channels: truth.num_head_channels,
            use_new_attention_order: truth.use_new_attention_order,
            rescale_timesteps: truth.rescale_timesteps,
            num_classes: truth.num_classes,
            ..told.clone()
        };
        assert_eq!(hidden, truth, "{name}");
        assert!(!truth.class_cond || told.num_classes == truth.num_classes);
    }
}

#[test]
fn schedules_have_guided_diffusions_numbers() {
    let text = std::fs::read_to_string(data("schedules.json")).unwrap();
    let reference: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, r) in reference.as_object().unwrap() {
        let (name, count) = key.split_once('/').unwrap();
        let s = Schedule::new(NoiseSchedule::of_name(name).unwrap(), 1000, count.parse().unwrap(), Spacing::Linear)
            .unwrap();
        for (k, level) in r["levels"].as_array().unwrap().iter().enumerate() {
            let i = level.as_u64().unwrap() as usize;
            let expect = |what: &str, found: f64| {
                let expected = r[what][k].as_f64().unwrap();
                let close = (found - expected).abs() <= 1e-9 * expected.abs().max(1e-6);
                assert!(close, "{key} {what} at {i}: {found} is not {expected}");
            };
            expect("timesteps", s.timesteps[i]);
            expect("alpha_bar", s.alpha_bar[i]);
            expect("beta", s.beta[i]);
            expect("coefficient_x0", s.posterior_mean(i).0);
            expect("coefficient_x", s.posterior_mean(i).1);
            expect("log_small", s.posterior_log_variance_clipped(i));
            if i > 0 {
                expect("log_large", 2.0 * s.posterior_sigma(i, Variance::FixedLarge).ln());
            }
        }
    }
}
