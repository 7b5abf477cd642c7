//! `Plan` decides, without a device, when everything runs and where everything lives.

use super::recompute::within_budget;
use super::schedule::{Schedule, Step, saved_tensors, schedule};
use super::{Dtype, Graph, NodeId, Precision, Source, TensorId};
use crate::error::{Error, Result};

/// Start of every tensor in the arena: wide enough for any vector load and one memory transaction.
pub(crate) const ALIGNMENT: u64 = 256;

/// What a plan has to respect.
#[derive(Clone, Copy, Debug)]
pub struct PlanOptions {
    /// Type that activations and weights are stored in.
    pub storage: Dtype,
    /// Bytes that weights, inputs and arena together may take; none: no activation is dropped.
    pub memory: Option<u64>,
    /// Products of f32 storage may be made in TF32 where the device has it; else in full f32.
    pub tf32: bool,
    /// Large weights may stay with the host, and be copied to the device whenever they are read, if the budget can't be met otherwise.
    pub offload: bool,
}

impl Default for PlanOptions {
    fn default() -> Self {
        PlanOptions { storage: Dtype::F32, memory: None, tf32: true, offload: false }
    }
}

/// Weights of fewer bytes stay on the device in any case: copying them would cost more time than room.
const SMALL_WEIGHT: u64 = 16 << 10;

/// The room in the arena that takes over weights from the host, those of one step at a time.
#[derive(Clone, Debug)]
pub struct Window {
    /// Byte offset in the arena.
    pub offset: u64,
    /// Per tensor: true if it is a weight that stays with the host.
    pub streamed: Vec<bool>,
    /// Bytes of these weights.
    pub host_bytes: u64,
}

/// Where one value lives, and from which step to which.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The tensor.
    pub tensor: TensorId,
    /// Byte offset in the arena; none for inputs, weights and constants, which live outside.
    pub offset: Option<u64>,
    /// Bytes taken, alignment included.
    pub bytes: u64,
    /// Step that writes it.
    pub first: usize,
    /// Last step that touches it.
    pub last: usize,
    /// The value whose place it takes over, where its node works in place.
    pub in_place_of: Option<usize>,
}

/// Live bytes at one step, for drawing.
#[derive(Clone, Copy, Debug)]
pub struct MemoryPoint {
    /// Bytes of all values live during the step.
    pub live: u64,
    /// The step belongs to the reverse pass.
    pub reverse: bool,
    /// The step makes a dropped value again.
    pub recomputed: bool,
}

/// Order, lifetimes and offsets of one immutable graph.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Type that activations and weights are stored in.
    pub storage: Dtype,
    /// See [`PlanOptions::tf32`].
    pub tf32: bool,
    /// Launches in order.
    pub steps: Vec<Step>,
    /// One entry per value; [`super::Instance`] is an index into this.
    pub placements: Vec<Placement>,
    /// Bytes of the arena that every intermediate value lives in.
    pub arena_bytes: u64,
    /// Bytes of inputs and constants, which live outside the arena.
    pub io_bytes: u64,
    /// Bytes of the weights in the storage type.
    pub weight_bytes: u64,
    /// Step at which most bytes are live.
    pub peak_step: usize,
    /// Operations (2 per multiply-add) of the forward pass.
    pub flops_forward: u64,
    /// Operations of the reverse pass, without recomputation.
    pub flops_vjp: u64,
    /// Operations of what is made again.
    pub flops_recompute: u64,
    /// Bytes that the nodes of one run read and write, each operand counted once per node.
    pub traffic_bytes: u64,
    /// Bytes that no engine gets below: each weight read, each value that the reverse pass reads written and read, once.
    pub traffic_lower_bound: u64,
    /// Bytes of a plan that makes the same values and reads and writes each once: weights read, every value written and read.
    pub traffic_once: u64,
    /// Live bytes over the steps.
    pub memory: Vec<MemoryPoint>,
    /// Weights that stay with the host, if any do.
    pub window: Option<Window>,
}

impl Plan {
    /// Plans `graph`. Fails, with the smallest possible figure, if the memory budget can't be met.
    pub fn new(graph: &Graph, options: &PlanOptions) -> Result<Plan> {
        match Plan::within(graph, options, false) {
            Err(Error::Budget { .. }) if options.offload => Plan::within(graph, options, true),
            result => result,
        }
    }

    fn within(graph: &Graph, options: &PlanOptions, offload: bool) -> Result<Plan> {
        let of = |schedule| {
            let plan = Plan { tf32: options.tf32, ..Plan::of(graph, schedule, options.storage) };
            if offload { plan.with_window(graph) } else { plan }
        };
        let free = of(schedule(graph, &saved_tensors(graph)));
        let Some(memory) = options.memory else { return free.verified(graph) };
        if free.total_bytes() <= memory {
            return free.verified(graph);
        }
        let fixed = free.weight_bytes + free.io_bytes + free.window_bytes();
        // Placement loses a little to gaps: aim lower until the arena itself fits.
        let mut target = memory.saturating_sub(fixed);
        for _ in 0..16 {
            let plan = of(within_budget(graph, options.storage, target));
            if plan.total_bytes() <= memory {
                return plan.verified(graph);
            }
            let over = plan.total_bytes() - memory;
            if over >= target {
                break;
            }
            // Below what this schedule keeps live, or the search gives the same one again.
            let live = plan.memory.iter().map(|m| m.live).max().unwrap_or(0);
            target = (target - over).min(live.saturating_sub(1));
        }
        let smallest = Plan::smallest(graph, &PlanOptions { offload, ..*options });
        if smallest.total_bytes() <= memory {
            return smallest.verified(graph);
        }
        Err(Error::Budget { given: memory, smallest: smallest.total_bytes(), weights: smallest.weight_bytes })
    }

    /// The plan with the least memory that the search finds, whatever it costs to recompute and, where allowed, to copy.
    pub fn smallest(graph: &Graph, options: &PlanOptions) -> Plan {
        let plan = Plan::of(graph, within_budget(graph, options.storage, 0), options.storage);
        if options.offload { plan.with_window(graph) } else { plan }
    }

    /// Moves large weights to the host; the arena grows by a window for those of one step.
    fn with_window(mut self, graph: &Graph) -> Plan {
        let bytes = |i: usize| tensor_bytes(&graph.tensors()[i], self.storage);
        let large = |i: usize| matches!(graph.tensors()[i].source, Source::Weight) && bytes(i) >= SMALL_WEIGHT;
        let streamed: Vec<bool> = (0..graph.tensors().len()).map(large).collect();
        let host_bytes = (0..streamed.len()).filter(|&i| streamed[i]).map(bytes).sum();
        let tensor = |v: &super::Instance| self.placements[v.0 as usize].tensor.0 as usize;
        let of_step = |s: &Step| s.inputs.iter().map(tensor).filter(|&i| streamed[i]).map(bytes).sum();
        let room: u64 = self.steps.iter().map(of_step).max().unwrap_or(0);
        let offset = self.arena_bytes;
        self.arena_bytes += room;
        self.weight_bytes -= host_bytes;
        self.window = Some(Window { offset, streamed, host_bytes });
        self
    }

    /// Bytes of the window for weights from the host.
    pub fn window_bytes(&self) -> u64 {
        self.window.as_ref().map_or(0, |w| self.arena_bytes - w.offset)
    }

    /// True if `tensor` is a weight that stays with the host.
    pub fn is_streamed(&self, tensor: TensorId) -> bool {
        self.window.as_ref().is_some_and(|w| w.streamed[tensor.0 as usize])
    }

    /// Weights, inputs and arena together.
    pub fn total_bytes(&self) -> u64 {
        self.weight_bytes + self.io_bytes + self.arena_bytes
    }

    /// Values live at the peak, largest first: name of the tensor and bytes.
    pub fn live_at_peak<'g>(&self, graph: &'g Graph) -> Vec<(&'g str, u64)> {
        let mut live: Vec<_> = self
            .placements
            .iter()
            .filter(|p| p.offset.is_some() && p.first <= self.peak_step && self.peak_step <= p.last)
            .map(|p| (graph.tensor(p.tensor).name.as_str(), p.bytes))
            .collect();
        live.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        live
    }

    fn verified(self, graph: &Graph) -> Result<Plan> {
        super::verify::verify(graph, &self)?;
        Ok(self)
    }

    fn of(graph: &Graph, schedule: Schedule, storage: Dtype) -> Plan {
        let lifetimes = Lifetimes::of(graph, &schedule, storage);
        let (offsets, arena_bytes) = lifetimes.place();
        let placements = (0..schedule.tensor_of.len())
            .map(|i| Placement {
                tensor: schedule.tensor_of[i],
                offset: offsets[i],
                bytes: lifetimes.bytes[i],
                first: lifetimes.first[i],
                last: lifetimes.last[i],
                in_place_of: lifetimes.in_place_of[i],
            })
            .collect();
        let sum = |keep: &dyn Fn(&Step) -> bool| -> u64 {
            schedule.steps.iter().filter(|s| keep(s)).map(|s| node_flops(graph, s.node)).sum()
        };
        let bytes_where = |keep: &dyn Fn(&Source) -> bool| -> u64 {
            graph.tensors().iter().filter(|t| keep(&t.source)).map(|t| tensor_bytes(t, storage)).sum()
        };
        let touched = |s: &Step| -> u64 {
            let values = s.inputs.iter().chain(&s.outputs);
            values.map(|v| tensor_bytes(graph.tensor(schedule.tensor_of[v.0 as usize]), storage)).sum()
        };
        let saved = saved_tensors(graph);
        let stored = graph.tensors().iter().zip(&saved).filter(|(_, saved)| **saved);
        let stored_bytes: u64 = stored.map(|(t, _)| tensor_bytes(t, storage)).sum();
        let made = schedule.steps.iter().flat_map(|s| &s.outputs);
        let made_bytes: u64 = made.map(|o| tensor_bytes(graph.tensor(schedule.tensor_of[o.0 as usize]), storage)).sum();
        let weight_bytes = bytes_where(&|s| matches!(s, Source::Weight));
        let memory = (schedule.steps.iter().zip(&lifetimes.live))
            .map(|(s, &live)| MemoryPoint { live, reverse: graph.node(s.node).reverse, recomputed: s.recomputed })
            .collect();
        Plan {
            storage,
            tf32: true,
            flops_forward: sum(&|s| !graph.node(s.node).reverse && !s.recomputed),
            flops_vjp: sum(&|s| graph.node(s.node).reverse),
            flops_recompute: sum(&|s| s.recomputed),
            traffic_bytes: schedule.steps.iter().map(touched).sum(),
            traffic_lower_bound: weight_bytes + 2 * stored_bytes,
            traffic_once: weight_bytes + 2 * made_bytes,
            window: None,
            weight_bytes,
            io_bytes: bytes_where(&|s| matches!(s, Source::Input | Source::Constant(_))),
            peak_step: lifetimes.peak_step,
            steps: schedule.steps,
            placements,
            arena_bytes,
            memory,
        }
    }
}

/// Operations of one node, 2 per multiply-add.
pub(crate) fn node_flops(graph: &Graph, node: NodeId) -> u64 {
    let node = graph.node(node);
    let inputs: Vec<_> = node.inputs.iter().map(|&i| graph.shape(i)).collect();
    let outputs: Vec<_> = node.outputs.iter().map(|&o| graph.shape(o)).collect();
    node.op.flops(&inputs, &outputs)
}

fn tensor_bytes(tensor: &super::Tensor, storage: Dtype) -> u64 {
    let element = match tensor.precision {
        Precision::Full => 4,
        Precision::Storage => storage.bytes(),
    };
    ((tensor.shape.numel() * element) as u64).next_multiple_of(ALIGNMENT)
}

/// First and last step of every value, which values share one place, and the live bytes that follow.
pub(crate) struct Lifetimes {
    first: Vec<usize>,
    last: Vec<usize>,
    bytes: Vec<u64>,
    in_place_of: Vec<Option<usize>>,
    in_arena: Vec<bool>,
    live: Vec<u64>,
    pub peak_step: usize,
    pub peak_bytes: u64,
    storage: Dtype,
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
            in_arena[i] = matches!(graph.tensor(t).source, Source::Node(_));
            bytes[i] = tensor_bytes(graph.tensor(t), storage);
            if is_output[t.0 as usize] {
                last[i] = steps;
            }
        }
        let mut in_place_of = vec![None; count];
        for (s, step) in schedule.steps.iter().enumerate() {
            for &slot in graph.node(step.node).op.in_place() {
                let Some(&input) = step.inputs.get(slot) else { continue };
                let (i, o) = (input.0 as usize, step.outputs[0].0 as usize);
                let read_once = step.inputs.iter().filter(|&&x| x == input).count() == 1;
                if in_arena[i] && last[i] == s && bytes[i] == bytes[o] && read_once {
                    in_place_of[o] = Some(i);
                    break;
                }
            }
        }
        // A value takes room from its first step through its last; in place, the successor takes over one step later.
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

    /// Offsets of the values, largest first, each at the lowest gap that is free over its whole life.
    fn place(&self) -> (Vec<Option<u64>>, u64) {
        let count = self.first.len();
        // Values that pass one place on to each other are one block, living from the first to the last of them.
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
