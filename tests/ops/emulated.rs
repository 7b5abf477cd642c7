//! Every op of the case table on the emulated CUDA device, forward and VJP, in every storage type, under several orders of
//! blocks and threads. What a kernel does wrong on the way (a missing barrier, a write outside) is reported by the device itself.

use crate::cases::{Case, cases};
use crate::{chosen, inputs, plain_f32, random, wide};
use dmap::backend::Device;
use dmap::compare::compare;
use dmap::executor::Executor;
use dmap::graph::{Dtype, Graph, PlanOptions, Precision, TensorId, backward};
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

/// Activations and weights of a network are stored in the type of the run: those of the ops that networks are made of.
fn is_stored(case: &Case, input: usize) -> bool {
    let op = case.name.split(' ').next().unwrap_or_default();
    let network = ["conv", "group_norm", "attention", "linear", "silu", "add", "scale", "clamp", "concat"];
    let transformer = ["cross_attention", "layer_norm", "gelu", "geglu"];
    let resampling = ["channel_slice", "channel_pad", "upsample", "pool"];
    network.contains(&op) || transformer.contains(&op) || resampling.contains(&op) || (op == "embedding" && input == 1)
}

/// The case's graph: stored inputs as weights, the others as inputs; and the values as they are stored.
fn record(case: &Case, dtype: Dtype) -> (Graph, Vec<TensorId>, TensorId, Vec<Vec<f32>>, Weights) {
    let mut g = Graph::new();
    let mut values = inputs(case);
    let mut weights = Vec::new();
    let mut ids = Vec::new();
    for (k, shape) in case.shapes.iter().enumerate() {
        let name = format!("input {k}");
        if is_stored(case, k) {
            values[k] = rounded(&values[k], dtype);
            weights.push((name.clone(), values[k].clone()));
            ids.push(g.weight(&name, *shape));
        } else {
            ids.push(g.input(&name, *shape));
        }
    }
    let out = (case.record)(&mut g, &ids).unwrap();
    (g, ids, out, values, Weights::from_values(weights))
}

struct Run {
    seed: u64,
    dtype: Dtype,
    tf32: bool,
}

impl Run {
    fn executor(&self, g: Graph, weights: &Weights) -> Result<Executor, String> {
        let options = PlanOptions { storage: self.dtype, tf32: self.tf32, ..PlanOptions::default() };
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

/// Forward against the reference in f64 on the values as they are stored: at most twice the error of plain f32, and some
/// roundings of the storage type of the largest value.
fn forward(case: &Case, run: &Run) -> Result<f64, String> {
    let (mut g, ids, out, values, weights) = record(case, run.dtype);
    g.output(out);
    let stored = g.tensor(out).precision == Precision::Storage;
    let truth = (case.truth)(&wide(&values));
    let (plain_error, largest) = plain_f32(case, &values, &truth);
    let mut e = run.executor(g, &weights)?;
    let mut share = 0.0f64;
    for _ in 0..2 {
        write_inputs(&mut e, &ids, &values);
        e.run().map_err(|e| format!("{}: {e}", case.name))?;
        let products =
            ["conv", "attention", "cross_attention", "linear", "geglu"].iter().any(|p| case.name.starts_with(p));
        let unit = if products || stored { unit(run.dtype, run.tf32 && products) } else { unit(Dtype::F32, false) };
        let limit = 2.0 * plain_error + (8.0 * f64::from(f32::EPSILON) + 4.0 * unit) * largest;
        share = share.max(compare(&case.name, &e.read(out).unwrap(), &truth, limit)?.share);
    }
    Ok(share)
}

/// VJP against the CPU's, which central differences in f64 have checked, on the values as they are stored.
fn vjp(case: &Case, input: usize, run: &Run) -> Result<f64, String> {
    let gradient_on = |device: Option<&Run>| -> Result<(Vec<f32>, bool), String> {
        let (mut g, ids, out, values, weights) = record(case, run.dtype);
        let shape = g.shape(out);
        let stored = g.tensor(out).precision == Precision::Storage;
        let cotangent = rounded(&random(&case.name, 90, shape.numel()), if stored { run.dtype } else { Dtype::F32 });
        let v = match stored {
            true => g.weight("cotangent", shape),
            false => g.input("cotangent", shape),
        };
        let weights = match stored {
            true => {
                let given =
                    (0..ids.len()).filter(|&k| is_stored(case, k)).map(|k| (format!("input {k}"), values[k].clone()));
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
    let network = is_stored(case, input) || stored;
    let unit = if network { unit(run.dtype, run.tf32) } else { unit(Dtype::F32, false) };
    // Intermediate gradients are rounded to the storage type, and a squared one may pass through several roundings.
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
            for case in chosen(cases().into_iter().chain(kernel_cases()).collect()) {
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
        .filter(|k| k != "normal_noise") // has no case; whole steps run it
        .collect();
    assert!(left_out.is_empty(), "no case runs {left_out:?}");
    crate::resources::check_table(&run);
}

/// Cases that only the kernels have a reason for: every head size and tile, whole vectors of channels.
fn kernel_cases() -> Vec<Case> {
    use crate::cases::linear_combination_case;
    use crate::network_cases::{
        attention_case, bypassed_norm_case, conv_case, conv_of_two_case, conv_variant_case, cross_attention_case,
        geglu_case, group_norm_case, group_norm_of_two_case, linear_case,
    };
    use dmap::graph::Shape;
    use dmap::ops::attention::QkvOrder::{ByHead, ByKind};
    use dmap::ops::conv::Conv;
    let s = Shape::new;
    vec![
        // Large tiles, cut in both directions; small tiles with the sum in parts; both strides.
        conv_case(s(1, 13, 21, 24), 136, (3, 1), true),
        conv_case(s(2, 9, 7, 40), 72, (3, 2), false),
        conv_case(s(1, 8, 8, 96), 32, (1, 1), true),
        conv_case(s(1, 24, 16, 16), 128, (1, 1), false),
        // Products of a warpgroup: tiles of 256 and 128 pixels that the image does not fill, two slices, the sum in parts or not.
        conv_case(s(1, 30, 15, 104), 120, (3, 1), true),
        conv_case(s(1, 14, 23, 104), 120, (3, 1), false),
        conv_case(s(1, 14, 8, 104), 120, (3, 1), true),
        conv_case(s(2, 12, 20, 104), 120, (1, 1), true),
        conv_case(s(1, 10, 12, 104), 120, (1, 1), false),
        conv_of_two_case(s(1, 14, 16, 240), 120, 104, (3, 1), true),
        conv_variant_case(
            s(1, 15, 8, 104),
            192,
            Conv { doubled: true, item_bias: true, addend: true, ..Conv::new(3, 1) },
        ),
        conv_variant_case(
            s(1, 30, 15, 104),
            256,
            Conv { doubled: true, item_bias: true, addend: true, ..Conv::new(3, 1) },
        ),
        linear_case(s(120, 1, 1, 520), 120, true),
        geglu_case(s(1, 20, 24, 40), 128),
        // All that is added, after the parts of a sum.
        conv_variant_case(s(2, 4, 3, 64), 64, Conv { doubled: true, item_bias: true, addend: true, ..Conv::new(3, 1) }),
        // An image's few channels: written (in f32 if asked), and their gradient, of both strides.
        conv_case(s(1, 9, 13, 72), 3, (3, 1), true),
        conv_variant_case(s(2, 5, 7, 40), 6, Conv { full: true, ..Conv::new(3, 1) }),
        conv_of_two_case(s(1, 5, 7, 64), 24, 3, (1, 1), false),
        conv_case(s(2, 9, 7, 3), 72, (3, 1), false),
        conv_case(s(1, 8, 6, 5), 32, (3, 2), false),
        // The sum in parts or not, and SiLU after it; by plain arithmetic.
        linear_case(s(20, 1, 1, 48), 64, false),
        linear_case(s(20, 1, 1, 48), 64, true),
        linear_case(s(20, 1, 1, 520), 64, true),
        linear_case(s(20, 1, 1, 9), 17, true),
        // Values and gates of one tile, large or small, cut in both directions; no whole eights of them; the sum in parts.
        geglu_case(s(1, 13, 21, 24), 72),
        geglu_case(s(1, 6, 7, 40), 40),
        geglu_case(s(1, 6, 7, 40), 12),
        geglu_case(s(1, 5, 4, 520), 16),
        group_norm_case(s(2, 9, 7, 64), 16, true, true),
        group_norm_case(s(1, 5, 3, 320), 32, false, true),
        // A block for a group: more pixels than it takes at once, channels of two vectors and more.
        group_norm_case(s(2, 23, 29, 32), 4, true, true),
        group_norm_case(s(1, 5, 3, 320), 4, false, false),
        group_norm_of_two_case(s(2, 9, 7, 64), 24, 4, true),
        bypassed_norm_case(s(2, 9, 7, 64), Some(8)),
        // Two sources, cut where no group and no slice ends; the sum in parts, which end in either source.
        group_norm_of_two_case(s(2, 9, 7, 64), 24, 16, true),
        bypassed_norm_case(s(2, 9, 7, 64), Some(16)),
        bypassed_norm_case(s(2, 3, 7, 264), None),
        conv_of_two_case(s(1, 13, 21, 136), 56, 136, (1, 1), true),
        conv_of_two_case(s(1, 5, 7, 304), 120, 64, (3, 1), false),
        // Every padded head size, more tokens than a tile and not a multiple of one.
        attention_case(1, 9, 11, 2, 32, ByHead),
        attention_case(1, 9, 9, 1, 40, ByKind),
        attention_case(2, 5, 15, 2, 64, ByHead),
        // A block of 128 tokens and the rest; fewer blocks than the device can run.
        attention_case(1, 9, 17, 1, 48, ByHead),
        attention_case(1, 9, 17, 1, 64, ByKind),
        attention_case(1, 5, 15, 1, 64, ByHead),
        attention_case(1, 7, 10, 1, 80, ByKind),
        attention_case(1, 7, 10, 1, 160, ByHead),
        // More queries than keys and the other way round, keys of one item for all, and the one head of an autoencoder.
        cross_attention_case(s(2, 9, 9, 64), 77, 1, 2, false),
        cross_attention_case(s(2, 3, 9, 40), 90, 2, 1, false),
        cross_attention_case(s(1, 3, 5, 512), 15, 1, 1, false),
        cross_attention_case(s(1, 7, 10, 512), 75, 1, 1, false),
        // By products of a warpgroup.
        cross_attention_case(s(2, 12, 12, 512), 136, 2, 1, false),
        cross_attention_case(s(2, 5, 7, 2 * 200), 40, 2, 2, false),
        linear_combination_case(vec![3, 0]),
        linear_combination_case(vec![1, 2, 0, 3]),
    ]
}
