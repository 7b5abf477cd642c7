//! From a plan to the launches of every step, for given memory addresses.

use crate::error::Result;
use crate::graph::{ALIGNMENT, Graph, Instance, Placement, Plan, Source, TensorId};
use crate::launch::{Chip, NodeLaunches, Operand, Recorder};
use crate::tensor::{Dtype, Shape};

/// Addresses of a plan's values.
pub(super) struct Places<'a> {
    pub arena: u64,
    pub scratch: u64,
    /// Addresses of inputs, weights and constants.
    pub outside: &'a dyn Fn(TensorId) -> Option<u64>,
}

/// The launches of every step, and the largest scratch in bytes that a node needs. `table` uploads
/// a table and returns its address.
pub(super) fn record_steps(
    graph: &Graph,
    plan: &Plan,
    chip: &Chip,
    places: &Places<'_>,
    table: &mut dyn FnMut(&[u8]) -> Result<u64>,
) -> Result<(Vec<NodeLaunches>, u64)> {
    let (mut all, mut needed) = (Vec::with_capacity(plan.steps.len()), 0);
    let mut table = |bytes: &[u8]| -> Result<Operand> {
        let shape = Shape::vector(bytes.len() / 4);
        Ok(Operand { address: table(bytes)?, bytes: bytes.len() as u64, dtype: Dtype::F32, shape })
    };
    for step in &plan.steps {
        let node = graph.node(step.node);
        let describe = |values: &[Instance]| -> Vec<Operand> {
            let placements = values.iter().map(|v| &plan.placements[v.0 as usize]);
            let place = |offset: Option<u64>| places.arena + offset.unwrap_or(0);
            let address = |p: &Placement| (places.outside)(p.tensor).unwrap_or_else(|| place(p.offset));
            placements.map(|p| located(graph, plan, p.tensor, address(p))).collect()
        };
        let (mut inputs, outputs) = (describe(&step.inputs), describe(&step.outputs));
        let copies = through_window(plan, places.arena, &step.inputs, &mut inputs);
        let in_place = |o: &Operand| inputs.iter().any(|i| i.address == o.address);
        let written = outputs.iter().map(|o| (*o, in_place(o))).collect();
        let mut recorder = Recorder {
            inputs: inputs.clone(),
            outputs,
            chip,
            tf32: plan.tf32,
            forced: &plan.variants,
            scratch_base: places.scratch,
            scratch_used: 0,
            tables: &mut table,
            launches: Vec::new(),
            choices: Vec::new(),
        };
        node.op.record_cuda(&mut recorder)?;
        let Recorder { launches, choices, scratch_used: scratch_bytes, .. } = recorder;
        needed = scratch_bytes.max(needed);
        let node = node.name.clone();
        all.push(NodeLaunches { node, copies, outputs: written, launches, choices, scratch_bytes });
    }
    Ok((all, needed))
}

/// The launches of every step of a plan for a chip. No device is needed: the addresses in the
/// launches are made up and lie far apart, as if nothing shared memory.
pub fn launches_for(graph: &Graph, plan: &Plan, chip: &Chip) -> Result<Vec<NodeLaunches>> {
    let outside = |tensor: TensorId| {
        let tensor = graph.home(tensor);
        let is_outside = !matches!(graph.tensor(tensor).source, Source::Node(_));
        is_outside.then(|| (u64::from(tensor.0) + 2) << 40)
    };
    let places = Places { arena: 1 << 40, scratch: 1 << 39, outside: &outside };
    record_steps(graph, plan, chip, &places, &mut |_| Ok(1 << 38)).map(|(all, _)| all)
}

/// Gives the weights of a step that are in host memory a place in the window. Returns the copies:
/// (target, source address).
fn through_window(plan: &Plan, arena: u64, inputs: &[Instance], operands: &mut [Operand]) -> Vec<(Operand, u64)> {
    let Some(window) = &plan.window else { return Vec::new() };
    let mut next = arena + window.offset;
    let mut copies = Vec::new();
    for (instance, operand) in inputs.iter().zip(operands) {
        if plan.is_streamed(plan.placements[instance.0 as usize].tensor) {
            let from = operand.address;
            operand.address = next;
            next += operand.bytes.next_multiple_of(ALIGNMENT);
            copies.push((*operand, from));
        }
    }
    copies
}

/// The operand of a tensor at an address.
pub(super) fn located(graph: &Graph, plan: &Plan, tensor: TensorId, address: u64) -> Operand {
    let described = graph.tensor(tensor);
    let dtype = described.dtype(plan.storage);
    let bytes = (described.shape.numel() * dtype.bytes()) as u64;
    Operand { address, bytes, dtype, shape: described.shape }
}
