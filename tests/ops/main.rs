//! Every op of the case table: forward against slow loops in f64, VJP against central differences in f64, in an arena
//! that is full of NaN before each run.

mod cases;
#[cfg(feature = "emulate")]
mod emulated;
mod network_cases;
mod real;
mod reference;
#[cfg(feature = "emulate")]
mod resources;

use cases::{Case, cases};
use dmap::backend::Device;
use dmap::compare::compare;
use dmap::executor::Executor;
use dmap::graph::{Graph, PlanOptions, TensorId, backward};
use dmap::noise::{Draw, NoiseKey, Stream};
use dmap::weights::Weights;

fn random(case: &str, draw: u32, count: usize) -> Vec<f32> {
    let seed = case.bytes().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    let mut stream = Stream::new(NoiseKey { seed, image: draw, step: 0, draw: Draw::Start });
    (0..count).map(|_| stream.normal() as f32).collect()
}

fn inputs(case: &Case) -> Vec<Vec<f32>> {
    let values = case.shapes.iter().enumerate().map(|(k, s)| random(&case.name, k as u32, s.numel()));
    let mut values: Vec<Vec<f32>> = values.collect();
    if case.name == "embedding" {
        values[0] = vec![0.0, 0.25, 0.5];
    }
    if case.name == "diagonal_gaussian at its limit" {
        // Log variances above the limit, one in each item.
        values[0][9] = 25.0;
        values[0][15 * 14 + 12] = 30.0;
    }
    if case.name == "adamw" {
        // The second moment, the rates and the corrections are positive.
        values[3].iter_mut().for_each(|v| *v = v.abs());
        values[4] = [0.01, 0.1, 1.5, 0.0, 2.0].repeat(2);
    }
    if case.name.starts_with("guided_step") {
        values[2] = vec![300.0, 1.5];
        values[3] = vec![0.0, 0.0, 2.0, 0.0, 1.0, 2.0];
    }
    values
}

fn executor(g: Graph) -> Executor {
    let mut e = Executor::new(g, &PlanOptions::default(), &Weights::none(), &Device::cpu()).unwrap();
    e.set_poison(true);
    e
}

fn record(case: &Case) -> (Graph, Vec<TensorId>, TensorId) {
    let mut g = Graph::new();
    let ids: Vec<TensorId> = case.shapes.iter().enumerate().map(|(k, s)| g.input(&format!("in{k}"), *s)).collect();
    let out = (case.record)(&mut g, &ids).unwrap();
    (g, ids, out)
}

fn wide(values: &[Vec<f32>]) -> Vec<Vec<f64>> {
    values.iter().map(|v| v.iter().map(|&x| x.into()).collect()).collect()
}

/// The error that plain f32 loops make on `values`, and the largest value of the truth.
fn plain_f32(case: &Case, values: &[Vec<f32>], truth: &[f64]) -> (f64, f64) {
    let plain = (case.plain)(values);
    let error = plain.iter().zip(truth).map(|(p, t)| (f64::from(*p) - t).abs()).fold(0.0, f64::max);
    (error, truth.iter().fold(0.0f64, |m, t| m.max(t.abs())))
}

/// Our error may be at most twice that of a plain f32 loop, plus a few units in the last place of the largest value.
fn forward(case: &Case) -> Result<(), String> {
    let values = inputs(case);
    let truth = (case.truth)(&wide(&values));
    let (plain_error, largest) = plain_f32(case, &values, &truth);
    let (mut g, ids, out) = record(case);
    g.output(out);
    let mut e = executor(g);
    for _ in 0..2 {
        ids.iter().zip(&values).for_each(|(id, v)| e.write(*id, v).unwrap());
        e.run().unwrap();
        compare(
            &case.name,
            &e.read(out).unwrap(),
            &truth,
            2.0 * plain_error + 8.0 * f64::from(f32::EPSILON) * largest,
        )?;
    }
    Ok(())
}

/// <vjp(v), d> must equal the derivative of <v, f(x + h d)> by h.
fn vjp(case: &Case, input: usize) -> Result<(), String> {
    let values = inputs(case);
    let (mut g, ids, out) = record(case);
    let shape = g.shape(out);
    let v = g.input("v", shape);
    let cotangent = random(&case.name, 90, shape.numel());
    let gradient = backward(&mut g, out, v, ids[input]).map_err(|e| e.to_string())?;
    g.output(gradient);
    let mut e = executor(g);
    ids.iter().zip(&values).for_each(|(id, x)| e.write(*id, x).unwrap());
    e.write(v, &cotangent).unwrap();
    e.run().unwrap();
    let gradient = e.read(gradient).unwrap();
    let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
    for draw in 0..3 {
        let direction = random(&case.name, 100 + draw, values[input].len());
        let h = 1e-5;
        let objective = |h: f64| -> f64 {
            let mut moved = wide(&values);
            moved[input].iter_mut().zip(&direction).for_each(|(x, &d)| *x += h * f64::from(d));
            (case.truth)(&moved).iter().zip(&cotangent).map(|(y, &v)| y * f64::from(v)).sum()
        };
        let expected = (objective(h) - objective(-h)) / (2.0 * h);
        let found: f64 = gradient.iter().zip(&direction).map(|(&g, &d)| f64::from(g) * f64::from(d)).sum();
        // A random direction picks up about one norm of the gradient.
        compare(&format!("{} by input {input}", case.name), &[found as f32], &[expected], 1e-5 * norm + 1e-6)?;
    }
    Ok(())
}

/// The cases whose name holds the text in DMAP_CASE; without it all.
pub fn chosen(cases: Vec<Case>) -> Vec<Case> {
    let text = std::env::var("DMAP_CASE").unwrap_or_default();
    cases.into_iter().filter(|c| c.name.contains(&text)).collect()
}

#[test]
fn forward_agrees_with_slow_loops() {
    let failures: Vec<String> = chosen(cases()).iter().filter_map(|c| forward(c).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn vjps_agree_with_central_differences() {
    let all = chosen(cases());
    let pairs = all.iter().flat_map(|c| c.differentiable.iter().map(move |&i| (c, i)));
    let failures: Vec<String> = pairs.filter_map(|(c, i)| vjp(c, i).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_gradient_that_no_rule_gives_is_refused_when_the_graph_is_built() {
    for case in chosen(cases()) {
        for input in (0..case.shapes.len()).filter(|i| !case.differentiable.contains(i)) {
            let (mut g, ids, out) = record(&case);
            let shape = g.shape(out);
            let v = g.input("v", shape);
            let refused = backward(&mut g, out, v, ids[input]);
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
    use dmap::ops::pointwise::Silu;
    // f(x) = silu(x) + 3 x + x, each use by another path.
    let case = Case {
        name: "twice".into(),
        shapes: vec![dmap::graph::Shape::new(1, 2, 3, 4)],
        differentiable: vec![0],
        record: Box::new(|g, i| {
            let a = g.one(Silu, "silu", &[i[0]])?;
            let b = g.one(dmap::ops::add::Add { scale: 3.0 }, "b", &[a, i[0]])?;
            g.sum("c", b, i[0])
        }),
        truth: Box::new(|i| i[0].iter().map(|&x| real::silu(x) + 4.0 * x).collect()),
        plain: Box::new(|i| i[0].iter().map(|&x| real::silu(x) + 4.0 * x).collect()),
    };
    forward(&case).unwrap();
    vjp(&case, 0).unwrap();
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
