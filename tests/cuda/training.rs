//! Training steps on the emulated device.

use crate::emulated;
use dmap::backend::Device;
use dmap::compare::relative_error;
use dmap::graph::{Dtype, PlanOptions};
use dmap::model::Model;
use dmap::operator::parse_task;
use dmap::train::{Example, Photos, TrainSettings, Trainer};

const SIDE: usize = 16;

fn example(k: usize) -> Example {
    let wave = |period: usize| (0..SIDE * SIDE * 3).map(|i| ((i * period + k) % 97) as f32 / 48.0 - 1.0).collect();
    Example { image: wave(31), condition: wave(17), timestep: 211 * (k + 1) % 1000 }
}

/// The losses of two steps, and AdamW's first moments of all weights after the first.
fn two_steps(model: &str, start: &str, plan: PlanOptions, device: &Device) -> (Vec<f32>, Vec<f32>) {
    let model = Model::open(model).unwrap();
    let (operator, photos) = (parse_task("denoise").unwrap(), Photos::default());
    let mut settings = TrainSettings::new((SIDE, SIDE));
    (settings.batch, settings.accumulate, settings.rate) = (2, 2, 1e-3);
    settings.start = Some(start.into());
    let mut trainer = Trainer::new(&model, operator.as_ref(), &photos, settings, plan, device).unwrap();
    trainer.executor().set_poison(true);
    let mut losses = Vec::new();
    let mut moments = Vec::new();
    for step in 0..2 {
        let batches = [0, 2].map(|k| vec![example(4 * step + k), example(4 * step + k + 1)]);
        losses.push(trainer.step_on(&batches).unwrap().loss as f32);
        if step == 0 {
            moments = trainer.first_moments().unwrap().into_iter().flat_map(|m| m.2).collect();
        }
    }
    (losses, moments)
}

#[test]
fn training_steps_agree_with_the_cpu_in_every_storage_type_and_give_the_same_bits_again() {
    let modes = [
        ("f32", Dtype::F32, false, 2e-4),
        ("tf32", Dtype::F32, true, 2e-2),
        ("f16", Dtype::F16, true, 2e-2),
        ("bf16", Dtype::Bf16, true, 1e-1),
    ];
    let models = [
        ("tests/data/adm_control.safetensors", "tests/data/adm_control_cse.safetensors"),
        ("tests/data/latent_sd2", "tests/data/latent_sd2/controlnet"),
    ];
    for (model, start) in models {
        let (losses, moments) = two_steps(model, start, PlanOptions::default(), &Device::cpu());
        for (mode, storage, tf32, limit) in modes {
            let plan = PlanOptions::default().storage(storage).tf32(tf32);
            let (found, gradient) = two_steps(model, start, plan, &emulated(2));
            let (of_loss, of_gradient) = (relative_error(&found, &losses), relative_error(&gradient, &moments));
            assert!(of_loss <= limit, "{model}, {mode}, losses: {of_loss:.1e} of {limit:.1e}");
            assert!(of_gradient <= limit, "{model}, {mode}, gradients: {of_gradient:.1e} of {limit:.1e}");
            if mode == "bf16" {
                let again = two_steps(model, start, plan, &emulated(4));
                assert!(again == (found, gradient), "{model}: another order of blocks gives other bits");
            }
        }
    }
}
