//! The step that makes each value, the last step that reads it, and its size.

use super::record::{Graph, NodeId, Source, Tensor, TensorId};
use super::schedule::Schedule;
use crate::tensor::Dtype;

/// Alignment of every tensor in the arena in bytes: enough for any vector load and one memory
/// transaction.
pub(crate) const ALIGNMENT: u64 = 256;

/// Floating-point operations of one node, 2 per multiply-add.
pub(crate) fn node_flops(graph: &Graph, node: NodeId) -> u64 {
    let node = graph.node(node);
    let inputs: Vec<_> = node.inputs.iter().map(|&i| graph.shape(i)).collect();
    let outputs: Vec<_> = node.outputs.iter().map(|&o| graph.shape(o)).collect();
    node.op.flops(&inputs, &outputs)
}

pub(super) fn tensor_bytes(tensor: &Tensor, storage: Dtype) -> u64 {
    ((tensor.shape.numel() * tensor.dtype(storage).bytes()) as u64).next_multiple_of(ALIGNMENT)
}

/// Whether every value of one tensor lies where the same value of the other would lie. Rounded sizes
/// do not tell: 64 values of f32 and 64 of f16 take one unit of memory each.
fn same_layout(graph: &Graph, a: TensorId, b: TensorId, storage: Dtype) -> bool {
    let [a, b] = [a, b].map(|t| graph.tensor(t));
    a.shape.numel() == b.shape.numel() && a.dtype(storage) == b.dtype(storage)
}

/// First and last step of every value, the values that share memory in place, and the live bytes at
/// each step.
pub(crate) struct Lifetimes {
    pub(super) first: Vec<usize>,
    pub(super) last: Vec<usize>,
    pub(super) bytes: Vec<u64>,
    pub(super) in_place_of: Vec<Option<usize>>,
    pub(super) in_arena: Vec<bool>,
    pub(super) live: Vec<u64>,
    pub peak_step: usize,
    pub peak_bytes: u64,
    pub(super) storage: Dtype,
}

impl Lifetimes {
    pub fn of(graph: &Graph, schedule: &Schedule, storage: Dtype) -> Lifetimes {
        let count = schedule.tensor_of.len();
        let steps = schedule.steps.len();
        let (mut first, mut last) = (vec![0; count], vec![0; count]);
        for (s, step) in schedule.steps.iter().enumerate() {
            for o in &step.outputs {
                (first[o.0 as usize], last[o.0 as usize]) = (s, s);
            }
            for i in &step.inputs {
                last[i.0 as usize] = s;
            }
        }
        let mut is_output = vec![false; graph.tensors().len()];
        graph.outputs().iter().for_each(|o| is_output[o.0 as usize] = true);
        let mut in_arena = vec![false; count];
        let mut bytes = vec![0; count];
        for (i, &t) in schedule.tensor_of.iter().enumerate() {
            in_arena[i] = matches!(graph.tensor(t).source, Source::Node(_)) && !graph.is_assigned(t);
            bytes[i] = tensor_bytes(graph.tensor(t), storage);
            if is_output[t.0 as usize] {
                last[i] = steps;
            }
        }
        let mut in_place_of = vec![None; count];
        for (s, step) in schedule.steps.iter().enumerate() {
            for &(slot, k) in graph.node(step.node).op.in_place() {
                let (Some(input), Some(output)) = (step.inputs.get(slot), step.outputs.get(k)) else { continue };
                let (i, o) = (input.0 as usize, output.0 as usize);
                let read_once = step.inputs.iter().filter(|&x| x == input).count() == 1;
                let is_taken = step.outputs.iter().any(|x| in_place_of[x.0 as usize] == Some(i));
                let [from, to] = [i, o].map(|v| schedule.tensor_of[v]);
                let fits = match graph.is_assigned(to) {
                    true => graph.home(from) == graph.home(to),
                    false => in_arena[i] && last[i] == s && same_layout(graph, from, to, storage),
                };
                if fits && read_once && !is_taken && in_place_of[o].is_none() {
                    in_place_of[o] = Some(i);
                }
            }
        }
        // A value takes memory from its first to its last step. A value written in place counts
        // from one step later, because it takes over the memory of its predecessor.
        let mut change = vec![0i64; steps + 2];
        for i in (0..count).filter(|&i| in_arena[i]) {
            let from = if in_place_of[i].is_some() { first[i] + 1 } else { first[i] };
            if from <= last[i] {
                change[from] += bytes[i] as i64;
                change[last[i] + 1] -= bytes[i] as i64;
            }
        }
        let mut live = Vec::with_capacity(steps);
        let mut now = 0i64;
        for &c in change.iter().take(steps) {
            now += c;
            live.push(now as u64);
        }
        let (peak_step, peak_bytes) =
            live.iter().enumerate().fold((0, 0), |best, (s, &b)| if b > best.1 { (s, b) } else { best });
        Lifetimes { first, last, bytes, in_place_of, in_arena, live, peak_step, peak_bytes, storage }
    }

    pub fn live_at_peak(&self, instance: usize) -> bool {
        self.in_arena[instance] && self.first[instance] <= self.peak_step && self.peak_step <= self.last[instance]
    }

    pub fn bytes_of(&self, graph: &Graph, tensor: TensorId) -> u64 {
        tensor_bytes(graph.tensor(tensor), self.storage)
    }

    /// Offsets of the values and size of the arena. Larger values come first; each gets the lowest
    /// gap that is free over its whole life.
    pub(super) fn place(&self) -> (Vec<Option<u64>>, u64) {
        let count = self.first.len();
        // Values that take over each other's memory in place form one block, which lives from the
        // first step of the first to the last step of the last.
        let mut root: Vec<usize> = (0..count).collect();
        let mut end = self.last.clone();
        let mut order: Vec<usize> = (0..count).filter(|&i| self.in_arena[i]).collect();
        order.sort_by_key(|&i| self.first[i]);
        for &i in &order {
            if let Some(p) = self.in_place_of[i] {
                root[i] = root[p];
                end[root[p]] = end[root[p]].max(self.last[i]);
            }
        }
        let mut blocks: Vec<usize> = order.iter().copied().filter(|&i| root[i] == i).collect();
        blocks.sort_by_key(|&i| (std::cmp::Reverse(self.bytes[i]), self.first[i]));
        let mut placed: Vec<usize> = Vec::with_capacity(blocks.len());
        let mut offset = vec![None; count];
        let mut arena = 0;
        for &b in &blocks {
            let mut busy: Vec<(u64, u64)> = placed
                .iter()
                .filter(|&&p| self.first[p] <= end[b] && self.first[b] <= end[p])
                .map(|&p| (offset[p].unwrap_or(0), self.bytes[p]))
                .collect();
            busy.sort_unstable();
            let mut at = 0;
            for (start, bytes) in busy {
                if start >= at + self.bytes[b] {
                    break;
                }
                at = at.max(start + bytes);
            }
            offset[b] = Some(at);
            arena = arena.max(at + self.bytes[b]);
            placed.push(b);
        }
        for i in (0..count).filter(|&i| self.in_arena[i]) {
            offset[i] = offset[root[i]];
        }
        (offset, arena)
    }
}
