//! What `--method auto` takes.

use dmap::model::Model;
use dmap::operator::{Operator, parse_task};
use dmap::sampler::{Answer, Noise, Settings, Spacing};
use std::sync::Arc;

fn task(text: &str) -> Arc<dyn Operator> {
    parse_task(text).unwrap()
}

#[test]
fn the_method_follows_answer_model_task_and_noise() {
    let (pixels, latents) = (Model::shipped().unwrap(), Model::shipped_latent().unwrap());
    let takes = |model: &Model, text: &str, answer, noise: f64| {
        let settings = Settings::auto(answer, model, task(text).as_ref(), Noise::Gaussian(noise), None).unwrap();
        assert_eq!(settings.method.answer() == Answer::Map, settings.method.method().starts_with("dpir"));
        settings.method.method()
    };
    for (text, noise, expected) in [
        ("sr4", 0.025, "from=0.5,to=0.02,noise=0.25,views=2"),
        ("sr4", 0.1, "from=0.7,to=0.02,noise=0.5,views=2"),
        ("denoise", 0.025, "from=0.5,to=0.02,noise=0.25,views=2"),
        ("inpaint-random", 0.025, "from=0.5,to=0.02,noise=0.25,views=2"),
        ("motion-blur", 0.025, "from=0.5,to=0.02,noise=0.25,views=2"),
        ("gaussian-blur", 0.005, "from=0.5,to=0.02,noise=0.25,views=2"),
        ("gaussian-blur", 0.05, "from=0.7,to=0.02,noise=0.5,views=2"),
        ("inpaint-box", 0.025, "from=1,to=0.02,noise=0.5,views=1"),
        ("inpaint-box", 0.1, "from=2,to=0.2,noise=0.5,views=1"),
    ] {
        let method = takes(&pixels, text, Answer::Map, noise);
        assert_eq!(method, format!("dpir:lambda=0.23,{expected},cg=8"), "{text} {noise}");
    }
    for (model, text, name) in [
        (&pixels, "sr4", "ddrm:"),
        (&pixels, "denoise", "ddrm:"),
        (&pixels, "gaussian-blur", "ddrm:"),
        (&pixels, "motion-blur", "dmap:"),
        (&pixels, "motion-blur:boundary=circular", "ddrm:"),
        (&pixels, "inpaint-random", "dmap:"),
        (&latents, "sr4", "dmap:"),
    ] {
        assert!(takes(model, text, Answer::Sample, 0.025).starts_with(name), "{text}");
    }
    assert!(takes(&latents, "sr4", Answer::Map, 0.025).starts_with("dmap:"));
}

#[test]
fn a_budget_goes_into_levels_and_then_into_views() {
    let model = Model::shipped().unwrap();
    for (text, passes, views, steps) in [
        ("sr4", 1, 1, 1),
        ("sr4", 2, 1, 2),
        ("sr4", 4, 1, 4),
        ("sr4", 8, 1, 8),
        ("sr4", 31, 1, 16),
        ("sr4", 32, 2, 16),
        ("sr4", 64, 4, 16),
        ("sr4", 1000, 4, 16),
        ("inpaint-box", 1, 1, 1),
        ("inpaint-box", 2, 1, 2),
        ("inpaint-box", 3, 1, 3),
        ("inpaint-box", 32, 1, 32),
        ("inpaint-box", 100, 1, 100),
        ("inpaint-box", 1000, 1, 128),
    ] {
        for noise in [0.025, 0.1] {
            let (operator, noise) = (task(text), Noise::Gaussian(noise));
            let settings = Settings::auto(Answer::Map, &model, operator.as_ref(), noise, Some(passes)).unwrap();
            let method = settings.method.method();
            assert!(method.contains(&format!("views={views},")), "{text}, {passes} passes: {method}");
            assert_eq!(settings.steps, steps, "{text}, {passes} passes: {method}");
            assert!(settings.passes(&model).unwrap() <= passes);
            // No level steps further than to half of the sigma of the one before.
            let prior = model.network.prior();
            let s = settings.check(&prior, operator.as_ref()).unwrap();
            assert!((1..steps).all(|i| s.sigma(i) < 2.02 * s.sigma(i - 1)), "{text}, {passes}: {method}");
        }
    }
}

#[test]
fn samples_are_drawn_within_a_budget() {
    let (pixels, latents) = (Model::shipped().unwrap(), Model::shipped_latent().unwrap());
    for (model, text, passes, name, steps) in [
        (&pixels, "sr4", 40, "ddrm", 40),
        (&pixels, "inpaint-random", 40, "dps", 20),
        (&pixels, "inpaint-random", 55, "dps", 27),
        (&pixels, "inpaint-random", 56, "dmap", 6),
        (&latents, "inpaint-random", 50, "dmap", 5),
    ] {
        let (operator, noise) = (task(text), Noise::default());
        let settings = Settings::auto(Answer::Sample, model, operator.as_ref(), noise, Some(passes)).unwrap();
        let method = settings.method.method();
        assert!(method.starts_with(name) && settings.steps == steps, "{text}, {passes}: {method}, {}", settings.steps);
    }
}

#[test]
fn the_paper_has_a_smaller_step_for_blurs_and_the_levels_of_its_scheduler() {
    let prior = Model::shipped_latent().unwrap().network.prior();
    for (text, zeta) in [("sr8", 4.8), ("gaussian-blur", 0.6), ("motion-blur", 0.6), ("inpaint-box", 4.8)] {
        let settings = Settings::paper(&prior, task(text).as_ref()).unwrap();
        assert!(settings.method.method().starts_with(&format!("dmap:k=3,step=published:{zeta}")), "{text}");
        assert!(settings.steps == 500 && settings.spacing == Spacing::Linspace, "{settings:?}");
    }
}
