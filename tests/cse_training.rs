//! Training of conditional score estimators against PyTorch: tools/reference_cse_training.py trained
//! the ControlNets of small models with the same images and noise.

use dmap::backend::Device;
use dmap::compare::relative_error;
use dmap::model::Model;
use dmap::noise::{Draw, NoiseKey, fill_normal};
use dmap::train::{Example, Photos, TrainSettings, Trainer};
use dmap::weights::Checkpoint;
use dmap::{PlanOptions, parse_task};
use std::path::{Path, PathBuf};

// As tools/reference_cse_training.py has them.
const SEED: u64 = 11;
const STEPS: usize = 50;
const BATCH: usize = 2;
const ACCUMULATE: usize = 2;
const SIDE: usize = 16;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A model, its ControlNet, and PyTorch's results.
struct Reference {
    model: Model,
    start: PathBuf,
    file: Checkpoint,
}

fn references() -> Vec<Reference> {
    let of = |model: &str, start: &str, file: &str| Reference {
        model: Model::open(data(model)).unwrap(),
        start: data(start),
        file: Checkpoint::open(&data(file)).unwrap(),
    };
    let latent = |name: &str| {
        let control = format!("latent_{name}/controlnet");
        of(&format!("latent_{name}"), &control, &format!("{control}/training.safetensors"))
    };
    let pixels = of("adm_control.safetensors", "adm_control_cse.safetensors", "adm_control_training.safetensors");
    vec![pixels, latent("sd1"), latent("sd2")]
}

fn settings(start: &Path) -> TrainSettings {
    let mut s = TrainSettings::new((SIDE, SIDE));
    (s.batch, s.accumulate, s.rate, s.decay, s.seed) = (BATCH, ACCUMULATE, 1e-3, 0.01, SEED);
    s.start = Some(start.into());
    s
}

fn example(number: usize, step: usize) -> Example {
    let drawn = |draw: Draw| {
        let mut values = vec![0.0; SIDE * SIDE * 3];
        fill_normal(&NoiseKey { seed: SEED, image: number as u32, step: step as u32, draw }.to_words(), 0, &mut values);
        values.iter_mut().for_each(|v| *v *= 0.5);
        values
    };
    let image = drawn(Draw::Start).into_iter().map(|v| v.clamp(-1.0, 1.0)).collect();
    Example { image, condition: drawn(Draw::Measurement), timestep: (37 + 211 * number + 97 * step) % 1000 }
}

fn batches(step: usize) -> Vec<Vec<Example>> {
    (0..ACCUMULATE).map(|k| (k * BATCH..(k + 1) * BATCH).map(|number| example(number, step)).collect()).collect()
}

#[test]
fn all_gradients_of_a_step_equal_those_of_pytorch() {
    for Reference { model, start, file } in references() {
        let (operator, photos) = (parse_task("denoise").unwrap(), Photos::default());
        let plan = PlanOptions::default();
        let mut trainer =
            Trainer::new(&model, operator.as_ref(), &photos, settings(&start), plan, &Device::cpu()).unwrap();
        trainer.executor().set_poison(true);
        let report = trainer.step_on(&batches(0)).unwrap();
        let norm = f64::from(file.values("norms").unwrap()[0]);
        assert!((report.gradient_norm / norm - 1.0).abs() < 1e-4, "{}: {} {norm}", model.name, report.gradient_norm);
        let clip = (1.0 / (norm + 1e-6)).min(1.0);
        let expected: Vec<&String> = file.tensors.keys().filter(|n| n.starts_with("gradient.")).collect();
        let moments = trainer.first_moments().unwrap();
        assert_eq!(moments.len(), expected.len(), "{}", model.name);
        // Gradients of layers before a norm may vanish; they are compared with the whole gradient.
        for (name, extents, moment) in moments {
            let name = format!("gradient.{name}");
            let gradient: Vec<f32> = moment.iter().map(|m| (f64::from(*m) / 0.1 / clip) as f32).collect();
            let truth = file.values(&name).unwrap();
            assert_eq!(file.tensors[&name].shape, extents, "{name}");
            let norm_of = |v: &[f32]| v.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            let error = gradient.iter().zip(&truth).map(|(a, b)| a - b).collect::<Vec<_>>();
            let limit = 1e-4 * norm_of(&truth) + 1e-6 * norm;
            assert!(
                norm_of(&error) <= limit,
                "{} {name}: {:.2e} of {:.2e}",
                model.name,
                norm_of(&error),
                norm_of(&truth)
            );
        }
    }
}

#[test]
fn fifty_steps_have_the_losses_of_pytorch_and_move_the_weights_as_far() {
    for Reference { model, start, file } in references() {
        let (operator, photos) = (parse_task("denoise").unwrap(), Photos::default());
        let plan = PlanOptions::default();
        let mut trainer =
            Trainer::new(&model, operator.as_ref(), &photos, settings(&start), plan, &Device::cpu()).unwrap();
        let before = trainer.weights().unwrap();
        let losses = file.values("losses").unwrap();
        for (step, &expected) in losses.iter().enumerate().take(STEPS) {
            let loss = trainer.step_on(&batches(step)).unwrap().loss;
            let error = (loss / f64::from(expected) - 1.0).abs();
            assert!(error < 1e-3, "{} step {step}: loss {loss:.6}, PyTorch {expected:.6}", model.name);
        }
        let norm_of = |v: &[f32]| v.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        for ((name, _, from), (_, _, to)) in before.iter().zip(trainer.weights().unwrap()) {
            // AdamW divides by the size of the gradient, so a gradient of rounding errors moves a weight, too.
            let gradient = norm_of(&file.values(&format!("gradient.{name}")).unwrap());
            if gradient < 1e-3 * f64::from(file.values("norms").unwrap()[0]) {
                continue;
            }
            let moved = from.iter().zip(&to).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt() as f32;
            let expected = file.values(&format!("moved.{name}")).unwrap()[0];
            let error = relative_error(&[moved], &[expected]);
            assert!(error < 0.02, "{} {name}: moved {moved:.3e}, PyTorch {expected:.3e}", model.name);
        }
    }
}

/// Photographs in a folder: one of noise, one of stripes.
fn photographs() -> (tempfile::TempDir, Photos) {
    let folder = tempfile::tempdir().unwrap();
    let files = [(40, 32, 1), (24, 48, 5)].map(|(width, height, period)| {
        let value =
            |i: usize| if period == 1 { (i * 7919 % 255) as f32 / 127.5 - 1.0 } else { (i / period % 2) as f32 };
        let values = (0..width * height * 3).map(value).collect();
        let path = folder.path().join(format!("{period}.png"));
        dmap::Picture { width, height, values }.write_png(&path).unwrap();
        path
    });
    let photos = Photos::choose(&files, 2, 3);
    assert!(photos.files.len() == 2 && photos.unreadable.is_empty());
    (folder, photos)
}

#[test]
fn a_resumed_training_has_the_bits_of_one_that_was_not_interrupted() {
    let (folder, photos) = photographs();
    let (model, operator) = (Model::open(data("adm_control.safetensors")).unwrap(), parse_task("sr2").unwrap());
    let mut s = settings(&data("adm_control_cse.safetensors"));
    s.warmup = 3;
    let trainer = |s: &TrainSettings| {
        Trainer::new(&model, operator.as_ref(), &photos, s.clone(), PlanOptions::default(), &Device::cpu()).unwrap()
    };
    let bits =
        |t: &Trainer<'_>| t.weights().unwrap().into_iter().flat_map(|w| w.2).map(f32::to_bits).collect::<Vec<_>>();
    let mut whole = trainer(&s);
    let losses: Vec<f64> = (0..4).map(|_| whole.step().unwrap().loss).collect();
    assert!(losses.iter().all(|l| *l > 0.0) && losses[0] != losses[1]);

    let out = folder.path().join("out");
    let mut first = trainer(&s);
    for _ in 0..2 {
        first.step().unwrap();
    }
    let path = first.save(&out).unwrap();
    let mut second = trainer(&s);
    second.resume(&out).unwrap();
    assert_eq!(second.steps_done(), 2);
    let rest: Vec<f64> = (0..2).map(|_| second.step().unwrap().loss).collect();
    assert_eq!(rest, losses[2..]);
    assert!(bits(&second) == bits(&whole), "weights of the resumed training");

    // The file is an estimator for this model and this task.
    let steered = Model::open(data("adm_control.safetensors")).unwrap().with_control(&path, 1.0).unwrap();
    assert_eq!(steered.network.condition().unwrap().task.as_deref(), Some("sr2"));

    // A file in f16 is half as long and has the same values, rounded.
    let bytes = |path: &Path| std::fs::metadata(path).unwrap().len();
    let long = bytes(&path);
    s.half = true;
    let mut halves = trainer(&s);
    halves.resume(&out).unwrap();
    let path = halves.save(&folder.path().join("halves")).unwrap();
    assert!(bytes(&path) < long * 3 / 5, "{} of {long} bytes", bytes(&path));
    let file = Checkpoint::open(&path).unwrap();
    for (name, extents, values) in first.weights().unwrap() {
        assert_eq!(file.tensors[&name].shape, extents, "{name}");
        for (half, value) in file.values(&name).unwrap().iter().zip(values) {
            assert!((half - value).abs() <= value.abs() / 2048.0 + 3e-8, "{name}: {half}, {value}");
        }
    }

    s.rate = 2e-3;
    let refused = trainer(&s).resume(&out).unwrap_err().to_string();
    assert!(refused.contains("lr is 0.001 there, 0.002 here"), "{refused}");
}

#[test]
fn micro_batches_add_up_to_the_gradient_of_one_batch() {
    let model = Model::open(data("adm_control.safetensors")).unwrap();
    let (operator, photos) = (parse_task("denoise").unwrap(), Photos::default());
    let moments = |batch: usize, accumulate: usize| {
        let mut s = settings(&data("adm_control_cse.safetensors"));
        (s.batch, s.accumulate) = (batch, accumulate);
        let mut t =
            Trainer::new(&model, operator.as_ref(), &photos, s, PlanOptions::default(), &Device::cpu()).unwrap();
        let all: Vec<Example> = (0..batch * accumulate).map(|number| example(number, 0)).collect();
        t.step_on(&all.chunks(batch).map(<[Example]>::to_vec).collect::<Vec<_>>()).unwrap();
        t.first_moments().unwrap().into_iter().flat_map(|m| m.2).collect::<Vec<f32>>()
    };
    let error = relative_error(&moments(1, 4), &moments(4, 1));
    assert!(error < 1e-5, "{error:.1e}");
}

#[test]
fn strong_noise_counts_up_to_the_limit_in_the_gradient_and_once_in_the_report() {
    let model = Model::open(data("adm_control.safetensors")).unwrap();
    let (operator, photos) = (parse_task("denoise").unwrap(), Photos::default());
    let step = |limit: f64, timestep: usize| {
        let mut s = settings(&data("adm_control_cse.safetensors"));
        (s.batch, s.accumulate, s.clip, s.weight_limit) = (1, 1, 1e9, limit);
        let mut t =
            Trainer::new(&model, operator.as_ref(), &photos, s, PlanOptions::default(), &Device::cpu()).unwrap();
        let report = t.step_on(&[vec![Example { timestep, ..example(0, 0) }]]).unwrap();
        (report.loss, report.gradient_norm)
    };
    // The usual betas rise linearly from 1e-4 to 0.02.
    let alpha_bar = |t: usize| (0..=t).map(|i| 1.0 - (1e-4 + (0.02 - 1e-4) * i as f64 / 999.0)).product::<f64>();
    for (limit, timestep, weight) in [(50.0, 400, 1.0 / alpha_bar(400)), (50.0, 900, 50.0), (1.0, 900, 1.0)] {
        let ((loss, norm), (once, norm_of_once)) = (step(limit, timestep), step(1.0, timestep));
        assert_eq!(loss, once);
        assert!((norm / norm_of_once / weight - 1.0).abs() < 1e-4, "{}, expected {weight}", norm / norm_of_once);
    }
}

#[test]
fn a_loss_that_is_not_finite_stops_and_leaves_the_weights_as_they_are() {
    let model = Model::open(data("adm_control.safetensors")).unwrap();
    let (operator, photos) = (parse_task("denoise").unwrap(), Photos::default());
    let s = settings(&data("adm_control_cse.safetensors"));
    let mut t = Trainer::new(&model, operator.as_ref(), &photos, s, PlanOptions::default(), &Device::cpu()).unwrap();
    let before = t.weights().unwrap();
    let mut broken = batches(0);
    broken[1][0].image[5] = f32::NAN;
    let message = t.step_on(&broken).unwrap_err().to_string();
    assert!(message.contains("the loss of step 1 is NaN"), "{message}");
    assert_eq!(t.steps_done(), 0);
    assert!(before == t.weights().unwrap());
}

#[test]
fn a_budget_recomputes_activations_without_changing_a_bit() {
    let model = Model::open(data("latent_sd1")).unwrap();
    let (operator, photos) = (parse_task("denoise").unwrap(), Photos::default());
    let run = |memory: Option<u64>| {
        let plan = PlanOptions::default().memory(memory);
        let s = settings(&data("latent_sd1/controlnet"));
        let mut t = Trainer::new(&model, operator.as_ref(), &photos, s, plan, &Device::cpu()).unwrap();
        t.executor().set_poison(true);
        for step in 0..2 {
            t.step_on(&batches(step)).unwrap();
        }
        (t.executor().plan().clone(), t.weights().unwrap())
    };
    let (free, weights) = run(None);
    let (tight, same) = run(Some(free.total_bytes() - free.arena_bytes / 5));
    assert!(tight.flops_recompute > 0 && tight.arena_bytes < free.arena_bytes);
    assert!(weights == same);
}

#[test]
fn an_estimator_starts_as_a_copy_that_adds_nothing() {
    let path = data("adm_control.safetensors");
    let (model, base) = (Model::open(&path).unwrap(), Checkpoint::open(&path).unwrap());
    let (operator, photos) = (parse_task("denoise").unwrap(), Photos::default());
    let s = TrainSettings::new((SIDE, SIDE));
    let t = Trainer::new(&model, operator.as_ref(), &photos, s, PlanOptions::default(), &Device::cpu()).unwrap();
    let (mut copied, mut zeros, mut drawn) = (0, 0, 0);
    for (name, extents, values) in t.weights().unwrap() {
        let is_zero = values.iter().all(|&v| v == 0.0);
        match base.tensors.get(&name) {
            Some(tensor) => {
                copied += 1;
                assert!(tensor.shape == extents && base.values(&name).unwrap() == values, "{name}");
            }
            None if name.contains("_blocks.") || name.contains("mid_block") || name.contains("conv_out") => {
                zeros += 1;
                assert!(is_zero, "{name}");
            }
            None => {
                drawn += 1;
                let inputs: usize = if extents.len() == 4 { extents[1..].iter().product() } else { 0 };
                let most = values.iter().fold(0f32, |m, v| m.max(v.abs()));
                let limit = if inputs > 0 { (inputs as f32).sqrt().recip() } else { 1.0 };
                assert!(!is_zero && most <= limit && (inputs == 0 || most > 0.5 * limit), "{name}: {most}, {limit}");
            }
        }
    }
    assert!(copied > 20 && zeros > 8 && drawn >= 6, "{copied} copied, {zeros} zeros, {drawn} drawn");
}

#[test]
fn the_learning_rate_rises_and_stays() {
    let mut s = TrainSettings::new((SIDE, SIDE));
    (s.rate, s.warmup) = (1.0, 3);
    assert_eq!([0, 1, 2, 3, 4, 100].map(|step| s.rate_at(step)), [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
    s.warmup = 0;
    assert_eq!(s.rate_at(0), 1.0);
}
