//! Proximal steps against dense solutions in f64, and the methods built on them, or on other steps
//! without a gradient of a norm, against transcriptions of their papers.

mod auto;
mod oracle;
mod problem;
mod singular;
mod transcriptions;

use dmap::backend::Device;
#[cfg(feature = "emulate")]
use dmap::backend::cuda::emulated::{Emulated, EmulatedChip};
use dmap::compare::relative_error;
use dmap::executor::Executor;
use dmap::graph::{PlanOptions, Shape};
use dmap::model::Model;
use dmap::noise::Draw;
use dmap::operator::parse_task;
use dmap::sampler::batch::Batch;
use dmap::sampler::{Moment, Phases, Settings, Spacing};
use oracle::normal;
use problem::{Problem, measured};

const TASKS: [&str; 6] =
    ["sr2", "gaussian-blur:size=5,sigma=1", "motion-blur:size=5", "inpaint-random", "inpaint-box", "denoise"];

fn proximal_steps_are_exact(device: &Device, tasks: &[&str]) {
    let model = Model::shipped().unwrap();
    let prior = model.network.prior();
    let image = Shape::new(2, 8, 8, 3);
    for task in tasks {
        // Two items with noise, mask and kernel of their own.
        let given = [measured(task, image, 0.05, 1), measured(task, image, 0.2, 2)];
        let operator = given[0].0.as_ref();
        let settings = Settings::parse("dps", &prior).unwrap().steps(5).spacing(Spacing::Linear);
        let plan = PlanOptions::default().tf32(false);
        let setup = settings.setup(&model, operator, image, plan, device).unwrap();
        let mut ids = None;
        let mut phases = Phases::new(&setup);
        phases
            .add("step", |s| {
                let x = s.x();
                let rho = s.scalar_of_noise(|_, noise| noise.powi(2) / 0.04);
                let prox = s.proximal(x, rho, 60)?;
                s.output("prox", prox);
                ids = Some((x, prox));
                Ok(())
            })
            .unwrap();
        let ((x, prox), mut phase) = (ids.unwrap(), phases.finish().remove(0));
        assert_eq!(phase.passes, 0, "no network is evaluated");
        let graph = std::mem::take(&mut phase.graph);
        let mut e = Executor::new(graph, &setup.plan, &model.weights, device).unwrap();
        e.set_poison(true);
        let batch = Batch {
            y: given.iter().flat_map(|g| g.1.y.clone()).collect(),
            state: given.iter().flat_map(|g| g.1.state.clone()).collect(),
            noise_norm: vec![0.0; 2],
            is_frozen: vec![false; 2],
            noise_sigma: given.iter().map(|g| g.1.noise_variance(operator, setup.image).sqrt()).collect(),
            ..Batch::default()
        };
        phase.write_batch(&mut e, &batch).unwrap();
        let moment = Moment { level: setup.level(2), at: setup.level(2), round: 0, earlier: 0 };
        phase.write_moment(&mut e, &moment, &batch, &mut Vec::new()).unwrap();
        let z = normal(0, Draw::Start, image.numel());
        e.write(x, &z.iter().map(|&v| v as f32).collect::<Vec<_>>()).unwrap();
        e.run().unwrap();
        let found = e.read(prox).unwrap();
        for (n, (operator, m)) in given.iter().enumerate() {
            let problem = Problem::new(operator.as_ref(), Shape { n: 1, ..image }, m);
            let z = &z[n * image.item()..][..image.item()];
            let expected: Vec<f32> =
                problem.proximal(z, problem.s.powi(2) / 0.04).into_iter().map(|v| v as f32).collect();
            let error = relative_error(&found[n * image.item()..][..image.item()], &expected);
            assert!(error < 1e-4, "{task}, item {n}, {}: {error:.1e}", device.name());
        }
    }
}

#[test]
fn a_proximal_step_is_the_solution_of_its_equations() {
    proximal_steps_are_exact(&Device::cpu(), &TASKS);
    #[cfg(feature = "emulate")]
    proximal_steps_are_exact(&Device::emulated(Emulated::new(EmulatedChip::Ada, 3)), &["sr2", "inpaint-random"]);
}

#[test]
fn what_has_no_proximal_step_is_refused_with_what_works() {
    let latent = Model::shipped_latent().unwrap().network.prior();
    let operator = parse_task("sr4").unwrap();
    for method in ["dpir", "diffpir", "ddnm", "ddrm", "pigdm"] {
        let settings = Settings::parse(method, &latent).unwrap();
        let said = settings.check(&latent, operator.as_ref()).unwrap_err().to_string();
        assert!(said.contains("needs a pixel model") && said.contains("dmap and dps work"), "{said}");
    }
}
