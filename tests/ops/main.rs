//! Every op of the case table: forward against slow loops in f64, VJP against central differences
//! in f64, in an arena that is full of NaN before each run.

#[cfg(feature = "emulate")]
mod emulated;
mod gradients;
mod real;
mod reference;
#[cfg(feature = "emulate")]
mod resources;
mod truth;

use dmap::backend::Device;
use dmap::compare::compare;
use dmap::executor::Executor;
use dmap::graph::{Graph, PlanOptions, TensorId, backward};
use dmap::selftest::{Case, CaseOp, cases};
use dmap::weights::Weights;
use truth::truth;

fn inputs(case: &Case) -> Vec<Vec<f32>> {
    (0..case.inputs.len()).map(|k| case.values(k)).collect()
}

fn executor(g: Graph) -> Executor {
    let mut e = Executor::new(g, &PlanOptions::default(), &Weights::none(), &Device::cpu()).unwrap();
    e.set_poison(true);
    e
}

fn record(case: &Case) -> (Graph, Vec<TensorId>, Vec<TensorId>) {
    let mut g = Graph::new();
    let ids = case.inputs.iter().enumerate().map(|(k, i)| g.input(&format!("in{k}"), i.shape)).collect::<Vec<_>>();
    let outputs = case.record(&mut g, &ids).unwrap();
    (g, ids, outputs)
}

fn wide(values: &[Vec<f32>]) -> Vec<Vec<f64>> {
    values.iter().map(|v| v.iter().map(|&x| x.into()).collect()).collect()
}

/// An output of the truth, the error that plain f32 loops make in it, and its largest value.
struct Expected {
    truth: Vec<f64>,
    plain_error: f64,
    largest: f64,
}

/// Every output that slow loops make.
fn expected(case: &Case, values: &[Vec<f32>]) -> Vec<Expected> {
    let (truths, plain) = (truth(case, &wide(values)), truth(case, values));
    let outputs = truths.into_iter().flatten().zip(plain.into_iter().flatten());
    outputs
        .map(|(truth, plain)| {
            let errors = plain.iter().zip(&truth).map(|(p, t)| (f64::from(*p) - t).abs());
            let (plain_error, largest) = (errors.fold(0.0, f64::max), truth.iter().fold(0.0f64, |m, t| m.max(t.abs())));
            Expected { truth, plain_error, largest }
        })
        .collect()
}

/// Our error may be at most twice that of a plain f32 loop, plus a few units in the last place of
/// the largest value.
fn forward(case: &Case) -> Result<(), String> {
    let values = inputs(case);
    let (mut g, ids, outputs) = record(case);
    outputs.iter().for_each(|&out| g.output(out));
    let mut e = executor(g);
    for _ in 0..2 {
        ids.iter().zip(&values).for_each(|(id, v)| e.write(*id, v).unwrap());
        e.run().unwrap();
        for (&out, Expected { truth, plain_error, largest }) in outputs.iter().zip(expected(case, &values)) {
            let limit = 2.0 * plain_error + 8.0 * f64::from(f32::EPSILON) * largest;
            compare(&case.name, &e.read(out).unwrap(), &truth, limit)?;
        }
    }
    Ok(())
}

/// <vjp(v), d> must equal the derivative of <v, f(x + h d)> by h.
fn vjp(case: &Case, input: usize) -> Result<(), String> {
    let values = inputs(case);
    let (mut g, ids, outputs) = record(case);
    let (out, shape) = (outputs[0], g.shape(outputs[0]));
    let v = g.input("v", shape);
    let cotangent = case.normal(90, shape.numel());
    let gradient = backward(&mut g, out, v, ids[input]).map_err(|e| e.to_string())?;
    g.output(gradient);
    let mut e = executor(g);
    ids.iter().zip(&values).for_each(|(id, x)| e.write(*id, x).unwrap());
    e.write(v, &cotangent).unwrap();
    e.run().unwrap();
    let gradient = e.read(gradient).unwrap();
    let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
    for draw in 0..3 {
        let direction = case.normal(100 + draw, values[input].len());
        let h = 1e-5;
        let objective = |h: f64| -> f64 {
            let mut moved = wide(&values);
            moved[input].iter_mut().zip(&direction).for_each(|(x, &d)| *x += h * f64::from(d));
            let outputs = truth(case, &moved).expect("an op with a gradient has a truth");
            outputs[0].iter().zip(&cotangent).map(|(y, &v)| y * f64::from(v)).sum()
        };
        let expected = (objective(h) - objective(-h)) / (2.0 * h);
        let found: f64 = gradient.iter().zip(&direction).map(|(&g, &d)| f64::from(g) * f64::from(d)).sum();
        // A random direction picks up about one norm of the gradient.
        compare(&format!("{} by input {input}", case.name), &[found as f32], &[expected], 1e-5 * norm + 1e-6)?;
    }
    Ok(())
}

/// The cases whose name holds the text in DMAP_CASE; without it all.
pub fn chosen() -> Vec<Case> {
    let text = std::env::var("DMAP_CASE").unwrap_or_default();
    cases().into_iter().filter(|c| c.name.contains(&text)).collect()
}

/// Those that the CPU has a reason for.
fn chosen_for_the_cpu() -> Vec<Case> {
    chosen().into_iter().filter(|c| !c.only_kernels).collect()
}

#[test]
fn the_names_of_cases_tell_them_apart() {
    let mut names: Vec<String> = cases().into_iter().map(|c| c.name).collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn forward_agrees_with_slow_loops() {
    let failures: Vec<String> = chosen_for_the_cpu().iter().filter_map(|c| forward(c).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn vjps_agree_with_central_differences() {
    let all = chosen_for_the_cpu();
    let pairs = all.iter().flat_map(|c| c.differentiable.iter().map(move |&i| (c, i)));
    let failures: Vec<String> = pairs.filter_map(|(c, i)| vjp(c, i).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_gradient_that_no_rule_gives_is_refused_when_the_graph_is_built() {
    // The gradient passes `quantise`, which is no derivative and so not compared with differences.
    for case in chosen().into_iter().filter(|case| !matches!(case.op, CaseOp::Quantise(_))) {
        for input in (0..case.inputs.len()).filter(|i| !case.differentiable.contains(i)) {
            let (mut g, ids, outputs) = record(&case);
            let shape = g.shape(outputs[0]);
            let v = g.input("v", shape);
            let refused = backward(&mut g, outputs[0], v, ids[input]);
            assert!(
                matches!(refused, Err(dmap::Error::NotDifferentiable { .. })),
                "{} by input {input} should be refused",
                case.name
            );
        }
    }
}

#[test]
fn gradients_of_a_tensor_used_twice_are_summed() {
    // f(x) = silu(x) + 3 x + x, each use by another path: f'(x) = silu'(x) + 4.
    let (mut g, shape) = (Graph::new(), dmap::graph::Shape::new(1, 2, 3, 4));
    let (x, v) = (g.input("x", shape), g.input("v", shape));
    let a = g.one(dmap::ops::pointwise::Silu, "silu", &[x]).unwrap();
    let b = g.one(dmap::ops::add::Add { scale: 3.0 }, "b", &[a, x]).unwrap();
    let out = g.sum("c", b, x).unwrap();
    let gradient = backward(&mut g, out, v, x).unwrap();
    g.output(gradient);
    let values: Vec<f32> = (0..shape.numel()).map(|i| i as f32 / 4.0 - 3.0).collect();
    let slope = |x: f32| {
        let s = 1.0 / (1.0 + (-f64::from(x)).exp());
        s * (1.0 + f64::from(x) * (1.0 - s)) + 4.0
    };
    let truth: Vec<f64> = values.iter().map(|&x| slope(x)).collect();
    let mut e = executor(g);
    e.write(x, &values).unwrap();
    e.write(v, &vec![1.0; shape.numel()]).unwrap();
    e.run().unwrap();
    compare("twice", &e.read(gradient).unwrap(), &truth, 1e-5).unwrap();
}

#[test]
fn wrong_extents_are_refused_by_the_name_of_the_node() {
    let mut g = Graph::new();
    let a = g.input("a", dmap::graph::Shape::new(1, 4, 4, 8));
    let b = g.input("b", dmap::graph::Shape::new(1, 4, 5, 8));
    let error = g.sum("some.block", a, b).unwrap_err().to_string();
    assert!(
        error.contains("some.block") && error.contains("(1, 4, 4, 8)") && error.contains("(1, 4, 5, 8)"),
        "{error}"
    );
}
