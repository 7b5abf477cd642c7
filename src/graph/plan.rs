//! A `Plan` decides, without a device, the order of execution and the memory location of every
//! value.

use super::lifetimes::{Lifetimes, node_flops, tensor_bytes};
use super::recompute::within_budget;
use super::schedule::{Schedule, Step, saved_tensors, schedule};
use crate::error::{Error, Result};
use crate::graph::record::{Graph, Source, Tensor, TensorId};
use crate::launch::Forced;
use crate::tensor::Dtype;

/// Requirements for a plan.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PlanOptions {
    /// Storage type of activations and weights.
    pub storage: Dtype,
    /// Memory budget in bytes for weights, inputs and arena together. None: no activation is
    /// recomputed.
    pub memory: Option<u64>,
    /// Products of f32 values may use TF32 if the device has it; else they use full f32.
    pub tf32: bool,
    /// If the budget can't be met otherwise, large weights may stay in host memory and be copied to
    /// the device before each use.
    pub offload: bool,
    /// Bytes of the inputs of other graphs that are in memory at the same time. They count against
    /// the budget.
    pub other_io_bytes: u64,
    /// CUDA kernel variants that run in place of the best ones.
    pub variants: Forced,
}

impl Default for PlanOptions {
    fn default() -> Self {
        PlanOptions {
            storage: Dtype::F32,
            memory: None,
            tf32: true,
            offload: false,
            other_io_bytes: 0,
            variants: Forced::NONE,
        }
    }
}

impl PlanOptions {
    /// These options with another storage type.
    pub fn storage(self, storage: Dtype) -> PlanOptions {
        PlanOptions { storage, ..self }
    }

    /// These options with another budget in bytes, or none.
    pub fn memory(self, bytes: impl Into<Option<u64>>) -> PlanOptions {
        PlanOptions { memory: bytes.into(), ..self }
    }

    /// These options with TF32 allowed or not.
    pub fn tf32(self, tf32: bool) -> PlanOptions {
        PlanOptions { tf32, ..self }
    }

    /// These options with large weights allowed to stay in host memory or not.
    pub fn offload(self, offload: bool) -> PlanOptions {
        PlanOptions { offload, ..self }
    }

    /// These options with the input bytes of other graphs.
    pub fn other_io_bytes(self, other_io_bytes: u64) -> PlanOptions {
        PlanOptions { other_io_bytes, ..self }
    }

    /// These options with forced kernel variants.
    pub fn variants(self, variants: Forced) -> PlanOptions {
        PlanOptions { variants, ..self }
    }
}

/// Weights with fewer bytes always stay on the device: a copy would cost time and save little
/// memory.
const SMALL_WEIGHT: u64 = 16 << 10;

/// Staging area at the end of the arena: before each step, the weights that it reads are copied
/// here from host memory.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Window {
    /// Byte offset in the arena.
    pub offset: u64,
    /// For each tensor: true if it is a weight that stays in host memory.
    pub streamed: Vec<bool>,
    /// Bytes of the weights in host memory.
    pub host_bytes: u64,
}

/// The memory location of one value, and the steps in which it is live.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Placement {
    /// The tensor.
    pub tensor: TensorId,
    /// Byte offset in the arena; none for inputs, weights and constants, which live outside it.
    pub offset: Option<u64>,
    /// Size in bytes, rounded up to the alignment.
    pub bytes: u64,
    /// Step that writes the value.
    pub first: usize,
    /// Last step that reads or writes the value.
    pub last: usize,
    /// The value whose memory this one takes over, if its node runs in place.
    pub in_place_of: Option<usize>,
}

/// Live bytes at one step, for a memory diagram.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct MemoryPoint {
    /// Bytes of all values in the arena that are live during the step.
    pub live: u64,
    /// The step belongs to the reverse pass.
    pub reverse: bool,
    /// The step recomputes a dropped value.
    pub recomputed: bool,
}

/// Order, lifetimes and offsets for one immutable graph.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// Storage type of activations and weights.
    pub storage: Dtype,
    /// See [`PlanOptions::tf32`].
    pub tf32: bool,
    /// See [`PlanOptions::variants`].
    pub variants: Forced,
    /// The steps in order.
    pub steps: Vec<Step>,
    /// One entry per value; [`super::Instance`] is an index into it.
    pub placements: Vec<Placement>,
    /// Size of the arena in bytes; all intermediate values live in it.
    pub arena_bytes: u64,
    /// Bytes of inputs and constants, which live outside the arena. It includes the inputs of other
    /// graphs.
    pub io_bytes: u64,
    /// Bytes of the weights on the device, in the storage type.
    pub weight_bytes: u64,
    /// Step with the most live bytes.
    pub peak_step: usize,
    /// Floating-point operations (2 per multiply-add) of the forward pass.
    pub flops_forward: u64,
    /// Floating-point operations of the reverse pass, without recomputation.
    pub flops_vjp: u64,
    /// Floating-point operations of recomputation.
    pub flops_recompute: u64,
    /// Bytes that the nodes of one run read and write, each operand counted once per node.
    pub traffic_bytes: u64,
    /// Lower bound on memory traffic for any engine, in bytes: every weight is read once; every
    /// activation kept for the reverse pass is written once and read once.
    pub traffic_lower_bound: u64,
    /// Traffic in bytes if each value of this plan were written once and read once, and each weight
    /// read once.
    pub traffic_once: u64,
    /// Live bytes at each step.
    pub memory: Vec<MemoryPoint>,
    /// The weights that stay in host memory, if there are any.
    pub window: Option<Window>,
}

impl Plan {
    /// Plans `graph`. If the memory budget can't be met, the error states the smallest possible
    /// budget.
    pub fn new(graph: &Graph, options: &PlanOptions) -> Result<Plan> {
        match Plan::within(graph, options, false) {
            Err(Error::Budget { .. }) if options.offload => Plan::within(graph, options, true),
            result => result,
        }
    }

    fn within(graph: &Graph, options: &PlanOptions, offload: bool) -> Result<Plan> {
        let of = |schedule| {
            let plan = Plan { tf32: options.tf32, variants: options.variants, ..Plan::of(graph, schedule, options) };
            if offload { plan.with_window(graph) } else { plan }
        };
        let free = of(schedule(graph, &saved_tensors(graph)));
        let Some(memory) = options.memory else { return free.verified(graph) };
        if free.total_bytes() <= memory {
            return free.verified(graph);
        }
        let fixed = free.weight_bytes + free.io_bytes + free.window_bytes();
        // Gaps between values waste some memory, so the target is lowered until the arena itself
        // fits.
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
            // The target must be below the live bytes of this schedule; otherwise the search would
            // return the same one.
            let live = plan.memory.iter().map(|m| m.live).max().unwrap_or(0);
            target = (target - over).min(live.saturating_sub(1));
        }
        let smallest = Plan::smallest(graph, &PlanOptions { offload, ..*options });
        if smallest.total_bytes() <= memory {
            return smallest.verified(graph);
        }
        Err(Error::Budget { given: memory, smallest: smallest.total_bytes(), weights: smallest.weight_bytes })
    }

    /// The plan with the least memory that the search finds, regardless of the cost of
    /// recomputation and, if allowed, of copies from host memory.
    pub fn smallest(graph: &Graph, options: &PlanOptions) -> Plan {
        let plan = Plan::of(graph, within_budget(graph, options.storage, 0), options);
        if options.offload { plan.with_window(graph) } else { plan }
    }

    /// Moves large weights to host memory and appends a window to the arena for the weights of one
    /// step.
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

    /// Size of the window for weights from host memory, in bytes.
    pub fn window_bytes(&self) -> u64 {
        self.window.as_ref().map_or(0, |w| self.arena_bytes - w.offset)
    }

    /// True if `tensor` is a weight that stays in host memory.
    pub fn is_streamed(&self, tensor: TensorId) -> bool {
        self.window.as_ref().is_some_and(|w| w.streamed[tensor.0 as usize])
    }

    /// Bytes of weights, inputs and arena together.
    pub fn total_bytes(&self) -> u64 {
        self.weight_bytes + self.io_bytes + self.arena_bytes
    }

    /// Values that are live at the peak, largest first: tensor name and bytes.
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
            variants: Forced::NONE,
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
