//! Every op of the case table on the emulated CUDA device, forward and VJP, in every storage type,
//! under several orders of blocks and threads. What a kernel does wrong on the way (a missing
//! barrier, a write outside) is reported by the device itself.

use crate::{Expected, chosen, expected, inputs};
use dmap::backend::Device;
use dmap::compare::compare;
use dmap::executor::Executor;
use dmap::graph::{Dtype, Graph, PlanOptions, Precision, TensorId, backward};
use dmap::selftest::{Case, CaseOp};
use dmap::weights::Weights;

/// f32 with TF32 products, f32 throughout, and the 16-bit types.
const MODES: [(&str, Dtype, bool); 4] =
    [("tf32", Dtype::F32, true), ("f32", Dtype::F32, false), ("f16", Dtype::F16, true), ("bf16", Dtype::Bf16, true)];

/// Half a unit in the last place of 1, of what products are made of.
fn unit(dtype: Dtype, tf32: bool) -> f64 {
    match dtype {
        Dtype::F32 if tf32 => 2f64.powi(-11),
        Dtype::F32 => 2f64.powi(-24),
        Dtype::F16 => 2f64.powi(-11),
        Dtype::Bf16 => 2f64.powi(-8),
    }
}

/// Values as the storage type holds them.
fn rounded(values: &[f32], dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::F32 => values.to_vec(),
        Dtype::F16 => values.iter().map(|&v| half::f16::from_f32(v).to_f32()).collect(),
        Dtype::Bf16 => values.iter().map(|&v| half::bf16::from_f32(v).to_f32()).collect(),
    }
}

/// The case's graph: stored inputs as weights, the others as inputs; and the values as they are
/// stored.
fn record(case: &Case, dtype: Dtype) -> (Graph, Vec<TensorId>, Vec<TensorId>, Vec<Vec<f32>>, Weights) {
    let mut g = Graph::new();
    let mut values = inputs(case);
    let mut weights = Vec::new();
    let mut ids = Vec::new();
    for (k, input) in case.inputs.iter().enumerate() {
        let name = format!("input {k}");
        if input.stored {
            values[k] = rounded(&values[k], dtype);
            weights.push((name.clone(), values[k].clone()));
            ids.push(g.weight(&name, input.shape));
        } else {
            ids.push(g.input(&name, input.shape));
        }
    }
    let outputs = case.record(&mut g, &ids).unwrap();
    (g, ids, outputs, values, Weights::from_values(weights))
}

/// Whether it multiplies matrices, whose factors are rounded to TF32.
fn has_products(case: &Case) -> bool {
    use CaseOp::{Attention, Conv, CrossAttention, Geglu, Linear};
    matches!(case.op, Conv(_) | Attention(_) | CrossAttention(_) | Linear(_) | Geglu(_))
}

struct Run {
    seed: u64,
    dtype: Dtype,
    tf32: bool,
}

impl Run {
    fn executor(&self, g: Graph, weights: &Weights) -> Result<Executor, String> {
        let options = PlanOptions::default().storage(self.dtype).tf32(self.tf32);
        let mut e = Executor::new(g, &options, weights, &Device::emulated(self.seed)).map_err(|e| e.to_string())?;
        e.set_poison(true);
        Ok(e)
    }
}

fn write_inputs(e: &mut Executor, ids: &[TensorId], values: &[Vec<f32>]) {
    for (id, v) in ids.iter().zip(values) {
        if matches!(e.graph().tensor(*id).source, dmap::graph::Source::Input) {
            e.write(*id, v).unwrap();
        }
    }
}

/// Forward against the reference in f64 on the values as they are stored: at most twice the error
/// of plain f32, and some roundings of the storage type of the largest value. Without a reference
/// it only has to run.
fn forward(case: &Case, run: &Run) -> Result<f64, String> {
    let (mut g, ids, outputs, values, weights) = record(case, run.dtype);
    outputs.iter().for_each(|&out| g.output(out));
    let expected = expected(case, &values);
    let mut e = run.executor(g, &weights)?;
    let mut share = 0.0f64;
    for _ in 0..2 {
        write_inputs(&mut e, &ids, &values);
        e.run().map_err(|e| format!("{}: {e}", case.name))?;
        for (&out, Expected { truth, plain_error, largest }) in outputs.iter().zip(&expected) {
            let (products, stored) = (has_products(case), e.graph().tensor(out).precision == Precision::Storage);
            let unit = if products || stored { unit(run.dtype, run.tf32 && products) } else { unit(Dtype::F32, false) };
            let limit = 2.0 * plain_error + (8.0 * f64::from(f32::EPSILON) + 4.0 * unit) * largest;
            share = share.max(compare(&case.name, &e.read(out).unwrap(), truth, limit)?.share);
        }
    }
    Ok(share)
}

/// VJP against the CPU's, which central differences in f64 have checked, on the values as they are
/// stored.
fn vjp(case: &Case, input: usize, run: &Run) -> Result<f64, String> {
    let gradient_on = |device: Option<&Run>| -> Result<(Vec<f32>, bool), String> {
        let (mut g, ids, outputs, values, weights) = record(case, run.dtype);
        let (out, shape) = (outputs[0], g.shape(outputs[0]));
        let stored = g.tensor(out).precision == Precision::Storage;
        let cotangent = rounded(&case.normal(90, shape.numel()), if stored { run.dtype } else { Dtype::F32 });
        let v = match stored {
            true => g.weight("cotangent", shape),
            false => g.input("cotangent", shape),
        };
        let weights = match stored {
            true => {
                let given = (0..ids.len())
                    .filter(|&k| case.inputs[k].stored)
                    .map(|k| (format!("input {k}"), values[k].clone()));
                Weights::from_values(given.chain([("cotangent".to_string(), cotangent.clone())]))
            }
            false => weights,
        };
        let gradient = backward(&mut g, out, v, ids[input]).map_err(|e| e.to_string())?;
        g.output(gradient);
        let mut e = match device {
            Some(run) => run.executor(g, &weights)?,
            None => Executor::new(g, &PlanOptions::default(), &weights, &Device::cpu()).map_err(|e| e.to_string())?,
        };
        write_inputs(&mut e, &ids, &values);
        if !stored {
            e.write(v, &cotangent).unwrap();
        }
        e.run().map_err(|e| format!("{} by input {input}: {e}", case.name))?;
        let stored = e.graph().tensor(gradient).precision == Precision::Storage;
        Ok((e.read(gradient).unwrap(), stored))
    };
    let (expected, _) = gradient_on(None)?;
    let (found, stored) = gradient_on(Some(run))?;
    let largest = expected.iter().fold(0f64, |m, &v| m.max(f64::from(v).abs()));
    let network = case.inputs[input].stored || stored;
    let unit = if network { unit(run.dtype, run.tf32) } else { unit(Dtype::F32, false) };
    // Intermediate gradients are rounded to the storage type, and a squared one may pass through
    // several roundings.
    let limit = (16.0 * f64::from(f32::EPSILON) + 8.0 * unit) * largest + 1e-30;
    let expected: Vec<f64> = expected.iter().map(|&v| f64::from(v)).collect();
    Ok(compare(&format!("{} by input {input}", case.name), &found, &expected, limit)?.share)
}

#[test]
fn every_kernel_agrees_with_the_references_in_every_storage_type() {
    let mut failures = Vec::new();
    for (mode, dtype, tf32) in MODES {
        for seed in [1, 2] {
            let run = Run { seed, dtype, tf32 };
            for case in chosen() {
                if let Err(e) = forward(&case, &run) {
                    failures.push(format!("{mode}, order {seed}: {e}"));
                }
                for &input in &case.differentiable {
                    if let Err(e) = vjp(&case, input, &run) {
                        failures.push(format!("{mode}, order {seed}: VJP of {e}"));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    if std::env::var_os("DMAP_CASE").is_some() {
        return;
    }
    let run = dmap::backend::cuda::emulated::kernels_run();
    let left_out: Vec<_> = dmap::backend::cuda::emulated::kernels()
        .into_iter()
        .filter(|k| !k.starts_with("fault_") && !run.contains_key(k))
        .collect();
    assert!(left_out.is_empty(), "no case runs {left_out:?}");
    crate::resources::check_table(&run);
}
