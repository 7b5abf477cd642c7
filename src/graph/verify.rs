//! Checks a plan by following its steps as a device would, independently of the planner.

use super::{Plan, Step};
use crate::error::{Error, Result};
use crate::graph::record::{Graph, Source, TensorId};
use std::collections::HashMap;

/// Checks that every value is written before it is read, that no value is overwritten before its
/// last read, and that every output survives. An in-place write must overwrite a value that the op
/// may overwrite and that nobody reads afterwards.
pub(crate) fn verify(graph: &Graph, plan: &Plan) -> Result<()> {
    let broken = |step: usize, what: String| {
        Err(Error::Plan(format!("step {step} ({}): {what}", graph.node(plan.steps[step].node).name)))
    };
    let mut last_read = vec![0; plan.placements.len()];
    for (s, step) in plan.steps.iter().enumerate() {
        step.inputs.iter().for_each(|i| last_read[i.0 as usize] = s + 1);
    }
    // Whether the op lets output `k` take the place of a value that it reads, value by value.
    let may_replace = |step: &Step, k: usize, replaced: Option<usize>| {
        let extent = |instance: usize| {
            let t = graph.tensor(plan.placements[instance].tensor);
            (t.shape.numel(), t.dtype(plan.storage))
        };
        let alike = replaced.is_some_and(|i| extent(i) == extent(step.outputs[k].0 as usize));
        let mut slots = (0..step.inputs.len()).filter(|&slot| Some(step.inputs[slot].0 as usize) == replaced);
        alike && slots.any(|slot| graph.node(step.node).op.in_place().contains(&(slot, k)))
    };
    let outputs: std::collections::HashSet<_> = graph.outputs().iter().copied().collect();
    let mut newest = vec![None; graph.tensors().len()];
    for step in &plan.steps {
        for o in &step.outputs {
            newest[plan.placements[o.0 as usize].tensor.0 as usize] = Some(o.0 as usize);
        }
    }
    for output in &outputs {
        if let Some(i) = newest[output.0 as usize] {
            last_read[i] = plan.steps.len() + 1;
        }
    }
    // Values whose bytes are still intact, in no particular order.
    let mut intact: Vec<usize> = Vec::new();
    // For each input that was overwritten in this run: the value that it holds now.
    let mut held: HashMap<TensorId, TensorId> = HashMap::new();
    for (s, step) in plan.steps.iter().enumerate() {
        for input in &step.inputs {
            let i = input.0 as usize;
            let p = &plan.placements[i];
            let tensor = graph.tensor(p.tensor);
            let home = graph.home(p.tensor);
            if matches!(graph.tensor(home).source, Source::Input) {
                if held.get(&home).copied().unwrap_or(home) != p.tensor {
                    return broken(s, format!("reads {}, which was overwritten", tensor.name));
                }
            } else if matches!(tensor.source, Source::Node(_)) && !intact.contains(&i) {
                return broken(s, format!("reads {} which is not there", tensor.name));
            }
        }
        let mut written = Vec::new();
        for (k, output) in step.outputs.iter().enumerate() {
            let o = output.0 as usize;
            let p = &plan.placements[o];
            let home = graph.home(p.tensor);
            if home != p.tensor {
                let before = held.get(&home).copied().unwrap_or(home);
                let replaces_it = p.in_place_of.is_some_and(|i| plan.placements[i].tensor == before);
                if step.recomputed || !replaces_it || !may_replace(step, k, p.in_place_of) {
                    return broken(s, format!("can't overwrite {}", graph.tensor(home).name));
                }
                written.push((home, p.tensor));
                continue;
            }
            let Some(offset) = p.offset else { return broken(s, "writes a value without a place".into()) };
            let (start, end) = (offset, offset + p.bytes);
            if end > plan.arena_bytes {
                return broken(s, "writes outside the arena".into());
            }
            for &other in intact.iter().filter(|&&x| x != o) {
                let q = &plan.placements[other];
                let at = q.offset.unwrap_or(u64::MAX);
                let apart = at >= end || at + q.bytes <= start;
                let read_now = step.inputs.iter().position(|i| i.0 as usize == other);
                let replaces_it = p.in_place_of == Some(other) && may_replace(step, k, p.in_place_of);
                let still_needed = last_read[other] > s + 1 || (read_now.is_some() && !replaces_it);
                let written_now = step.outputs.iter().any(|x| x.0 as usize == other);
                if !apart && (still_needed || written_now) {
                    return broken(s, format!("overwrites {}", graph.tensor(q.tensor).name));
                }
            }
            intact.retain(|&x| {
                let q = &plan.placements[x];
                let at = q.offset.unwrap_or(u64::MAX);
                at >= end || at + q.bytes <= start
            });
            intact.push(o);
        }
        held.extend(written);
    }
    for output in outputs {
        if let Some(i) = newest[output.0 as usize]
            && !graph.is_assigned(output)
            && !intact.contains(&i)
        {
            return Err(Error::Plan(format!("output {} does not survive", graph.tensor(output).name)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::graph::record::Graph;
    use crate::graph::{Plan, PlanOptions};
    use crate::ops::add::Add;
    use crate::ops::axis_filter::{Axis, AxisFilter, Taps};
    use crate::ops::pointwise::{PointwiseVjp, Silu};
    use crate::tensor::{Dtype, Shape};
    use std::sync::Arc;

    fn chain() -> (Graph, Plan) {
        let mut g = Graph::new();
        let x = g.input("x", Shape::new(1, 4, 4, 64));
        let a = g.one(Add { scale: 1.0 }, "a", &[x, x]).unwrap();
        let b = g.one(Add { scale: 1.0 }, "b", &[a, x]).unwrap();
        let c = g.one(Add { scale: 1.0 }, "c", &[a, b]).unwrap();
        g.output(c);
        let plan = Plan::new(&g, &PlanOptions::default()).unwrap();
        (g, plan)
    }

    #[test]
    fn a_sound_plan_passes_and_works_in_place() {
        let (g, plan) = chain();
        super::verify(&g, &plan).unwrap();
        assert_eq!(plan.arena_bytes, 2 * 4096, "a and b live together, c takes the place of one of them");
    }

    #[test]
    fn an_overlap_is_caught() {
        let (g, mut plan) = chain();
        let b = plan.steps[1].outputs[0].0 as usize;
        let a = plan.steps[0].outputs[0].0 as usize;
        plan.placements[b].offset = plan.placements[a].offset;
        let message = super::verify(&g, &plan).unwrap_err().to_string();
        assert!(message.contains("step 1 (b): overwrites a"), "{message}");
    }

    #[test]
    fn a_lost_output_and_a_write_past_the_end_are_caught() {
        let (g, mut plan) = chain();
        plan.steps.pop();
        plan.steps.push(plan.steps[1].clone());
        plan.arena_bytes -= 1;
        assert!(super::verify(&g, &plan).is_err());
    }

    /// 64 values of f32 and 64 of f16 take the same memory after rounding, at other places.
    #[test]
    fn a_value_never_replaces_one_of_another_type() {
        let mut g = Graph::new();
        let x = g.input("x", Shape::new(1, 4, 4, 4));
        let taps = Arc::new(Taps { rows: (0..4).map(|k| vec![(k, 1.0)]).collect(), inputs: 4 });
        let a = g.one(AxisFilter { axis: Axis::Height, taps }, "a", &[x]).unwrap();
        let stored = g.stored_constant("stored", Shape::new(1, 4, 4, 4), &Arc::new(vec![1.0; 64]));
        let b = g.one(PointwiseVjp(Silu), "b", &[a, stored]).unwrap();
        g.output(b);
        for (storage, arena_bytes) in [(Dtype::F32, 256), (Dtype::F16, 512)] {
            let plan = Plan::new(&g, &PlanOptions::default().storage(storage)).unwrap();
            assert_eq!(plan.arena_bytes, arena_bytes, "{storage:?}");
        }
        let mut plan = Plan::new(&g, &PlanOptions::default().storage(Dtype::F16)).unwrap();
        let [a, b] = [0, 1].map(|s| plan.steps[s].outputs[0].0 as usize);
        plan.placements[b].offset = plan.placements[a].offset;
        plan.placements[b].in_place_of = Some(a);
        let message = super::verify(&g, &plan).unwrap_err().to_string();
        assert!(message.contains("step 1 (b): overwrites a"), "{message}");
    }

    #[test]
    fn an_input_is_overwritten_only_by_a_node_that_reads_it_last() {
        let add = || Add { scale: 1.0 };
        let record = |reads_it: bool, is_read_again: bool| {
            let mut g = Graph::new();
            let (x, b) = (g.input("x", Shape::rows(1, 8)), g.input("b", Shape::rows(1, 8)));
            let next = g.one(add(), "next", &[if reads_it { x } else { b }, b]).unwrap();
            g.assign(x, next).unwrap();
            let after = g.one(add(), "after", &[if is_read_again { x } else { next }, b]).unwrap();
            g.output(after);
            Plan::new(&g, &PlanOptions::default()).map_err(|e| e.to_string())
        };
        let plan = record(true, false).unwrap();
        assert_eq!(plan.arena_bytes, 256, "only `after` takes memory");
        assert!(record(false, false).unwrap_err().contains("step 0 (next): can't overwrite x"));
        assert!(record(true, true).unwrap_err().contains("step 1 (after): reads x, which was overwritten"));
    }
}
