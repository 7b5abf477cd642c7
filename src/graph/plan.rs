//! `Plan` decides, without a device, when everything runs and where everything lives.

use super::lifetimes::{Lifetimes, node_flops, tensor_bytes};
use super::recompute::within_budget;
use super::schedule::{Schedule, Step, saved_tensors, schedule};
use crate::error::{Error, Result};
use crate::graph::record::{Graph, Source, Tensor, TensorId};
use crate::tensor::Dtype;

/// What a plan has to respect.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PlanOptions {
    /// Type that activations and weights are stored in.
    pub storage: Dtype,
    /// Bytes that weights, inputs and arena together may take; none: no activation is dropped.
    pub memory: Option<u64>,
    /// Products of f32 storage may be made in TF32 where the device has it; else in full f32.
    pub tf32: bool,
    /// Large weights may stay with the host, and be copied to the device whenever they are read, if the budget can't be met otherwise.
    pub offload: bool,
    /// Bytes that the inputs of other graphs take, which are held at the same time: they count like the graph's own.
    pub other_io_bytes: u64,
}

impl Default for PlanOptions {
    fn default() -> Self {
        PlanOptions { storage: Dtype::F32, memory: None, tf32: true, offload: false, other_io_bytes: 0 }
    }
}

impl PlanOptions {
    /// The same with activations and weights stored in this type.
    pub fn storage(self, storage: Dtype) -> PlanOptions {
        PlanOptions { storage, ..self }
    }

    /// The same within so many bytes, or without a budget.
    pub fn memory(self, bytes: impl Into<Option<u64>>) -> PlanOptions {
        PlanOptions { memory: bytes.into(), ..self }
    }

    /// The same with products in TF32 allowed or not.
    pub fn tf32(self, tf32: bool) -> PlanOptions {
        PlanOptions { tf32, ..self }
    }

    /// The same with large weights allowed to stay with the host or not.
    pub fn offload(self, offload: bool) -> PlanOptions {
        PlanOptions { offload, ..self }
    }

    /// The same beside the inputs of other graphs of so many bytes.
    pub fn other_io_bytes(self, other_io_bytes: u64) -> PlanOptions {
        PlanOptions { other_io_bytes, ..self }
    }
}

/// Weights of fewer bytes stay on the device in any case: copying them would cost more time than room.
const SMALL_WEIGHT: u64 = 16 << 10;

/// Staging area at the end of the arena: before each step, the weights that it reads are copied here from host memory.
#[derive(Clone, Debug)]
#[non_exhaustive]
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
#[non_exhaustive]
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
#[non_exhaustive]
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
#[non_exhaustive]
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
    /// Bytes of inputs and constants, which live outside the arena, those of other graphs included.
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
    /// Lower bound on memory traffic for any engine, in bytes: every weight is read once; every activation kept for the
    /// reverse pass is written once and read once.
    pub traffic_lower_bound: u64,
    /// Traffic in bytes if each value of this plan were written once and read once, and each weight read once.
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
            let plan = Plan { tf32: options.tf32, ..Plan::of(graph, schedule, options) };
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
        let plan = Plan::of(graph, within_budget(graph, options.storage, 0), options);
        if options.offload { plan.with_window(graph) } else { plan }
    }

    /// Moves large weights to the host; the arena grows by a window for those of one step.
    fn with_window(mut self, graph: &Graph) -> Plan {
        let bytes = |i: usize| tensor_bytes(&graph.tensors()[i], self.storage);
        let large = |i: usize| matches!(graph.tensors()[i].source, Source::Weight(_)) && bytes(i) >= SMALL_WEIGHT;
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

    /// Bytes of the inputs and constants of a graph, which live outside the arena.
    pub fn io_bytes_of(graph: &Graph, storage: Dtype) -> u64 {
        let is_io = |t: &&Tensor| matches!(t.source, Source::Input | Source::Constant(_));
        graph.tensors().iter().filter(is_io).map(|t| tensor_bytes(t, storage)).sum()
    }

    fn of(graph: &Graph, schedule: Schedule, options: &PlanOptions) -> Plan {
        let storage = options.storage;
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
        let touched = |s: &Step| -> u64 {
            let values = s.inputs.iter().chain(&s.outputs);
            values.map(|v| tensor_bytes(graph.tensor(schedule.tensor_of[v.0 as usize]), storage)).sum()
        };
        let saved = saved_tensors(graph);
        let stored = graph.tensors().iter().zip(&saved).filter(|(_, saved)| **saved);
        let stored_bytes: u64 = stored.map(|(t, _)| tensor_bytes(t, storage)).sum();
        let made = schedule.steps.iter().flat_map(|s| &s.outputs);
        let made_bytes: u64 = made.map(|o| tensor_bytes(graph.tensor(schedule.tensor_of[o.0 as usize]), storage)).sum();
        let weights = graph.tensors().iter().filter(|t| matches!(t.source, Source::Weight(_)));
        let weight_bytes = weights.map(|t| tensor_bytes(t, storage)).sum();
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
            io_bytes: Plan::io_bytes_of(graph, storage) + options.other_io_bytes,
            peak_step: lifetimes.peak_step,
            steps: schedule.steps,
            placements,
            arena_bytes,
            memory,
        }
    }
}
