//! Runs a plan on the CPU.

use crate::backend::program::{Program, check_finite, check_owner, program_id};
use crate::error::{Error, Result};
use crate::graph::CpuArguments;
use crate::graph::{Graph, Instance, Plan, Source, Step, TensorId};
use crate::tensor::Dtype;
use crate::weights::{WeightFiles, Weights};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Memory that all programs on the CPU share. A memory map starts at a page, which satisfies the
/// planner's alignment, and uses no memory before it is written.
#[derive(Default)]
pub struct Arena {
    map: Option<memmap2::MmapMut>,
    /// Id of the program whose values are in the arena.
    owner: u64,
}

impl Arena {
    /// Grows the arena to at least `bytes`; its content is lost if it grows.
    fn reserve(&mut self, bytes: usize) -> std::io::Result<()> {
        if self.map.as_ref().map_or(0, |map| map.len()) < bytes {
            *self = Arena::default();
            self.map = Some(memmap2::MmapMut::map_anon(bytes)?);
        }
        Ok(())
    }

    fn floats(&self) -> &[f32] {
        self.map.as_ref().map_or(&[], |map| bytemuck::cast_slice(map))
    }

    fn floats_mut(&mut self) -> &mut [f32] {
        self.map.as_mut().map_or(&mut [], |map| bytemuck::cast_slice_mut(map))
    }
}

/// A plan bound to the CPU.
pub struct CpuProgram {
    id: u64,
    graph: Arc<Graph>,
    plan: Arc<Plan>,
    arena: Arc<Mutex<Arena>>,
    /// Files of the weights that are read again in every run.
    files: Arc<WeightFiles>,
    /// For each tensor: the data of inputs, weights and constants. None for the weights that are
    /// read again in every run.
    outside: Vec<Option<Arc<Vec<f32>>>>,
    /// For each tensor: the value that exists at the end of a run.
    newest: Vec<Option<usize>>,
    /// Inputs that nodes overwrite.
    overwritten: Vec<TensorId>,
    poison: bool,
}

impl CpuProgram {
    /// Allocates inputs, takes the weights, and grows the shared arena if needed.
    pub fn new(graph: Arc<Graph>, plan: Arc<Plan>, weights: &Weights, arena: Arc<Mutex<Arena>>) -> Result<Self> {
        if plan.storage != Dtype::F32 {
            return Err(Error::Invalid("the CPU computes in f32 only: choose f32, or a CUDA device".into()));
        }
        let reserved = arena.lock().unwrap_or_else(|e| e.into_inner()).reserve(plan.arena_bytes as usize);
        reserved.map_err(|e| {
            Error::Memory(format!("the machine can't give {} MiB for the arena ({e})", plan.arena_bytes >> 20))
        })?;
        let files = weights.files();
        let outside = (graph.tensors().iter().enumerate())
            .map(|(i, t)| match &t.source {
                Source::Weight(parts) if plan.is_streamed(TensorId(i as u32)) && files.hold(parts) => Ok(None),
                Source::Input => Ok(Some(Arc::new(vec![0.0; t.shape.numel()]))),
                Source::Constant(values) => Ok(Some(values.clone())),
                Source::Weight(parts) => weights.get_parts(&t.name, parts).map(Some),
                Source::Node(_) => Ok(None),
            })
            .collect::<Result<_>>()?;
        let mut newest = vec![None; graph.tensors().len()];
        for step in &plan.steps {
            for o in &step.outputs {
                newest[plan.placements[o.0 as usize].tensor.0 as usize] = Some(o.0 as usize);
            }
        }
        let overwritten = graph.overwritten();
        Ok(CpuProgram { id: program_id(), graph, plan, arena, files, outside, newest, overwritten, poison: false })
    }

    /// Reads those weights of a step that are not in memory: (position among its inputs, values).
    fn streamed(&self, step: &Step) -> Result<Vec<(usize, Vec<f32>)>> {
        let mut read = Vec::new();
        for (slot, input) in step.inputs.iter().enumerate() {
            let id = self.plan.placements[input.0 as usize].tensor;
            if self.plan.is_streamed(id) && self.outside[id.0 as usize].is_none() {
                let Source::Weight(parts) = &self.graph.tensor(id).source else { unreachable!("a streamed weight") };
                read.push((slot, self.files.values(parts).expect("the file was found to hold it")?));
            }
        }
        Ok(read)
    }

    fn span(&self, instance: usize) -> (usize, usize) {
        let p = &self.plan.placements[instance];
        let offset = p.offset.expect("only node outputs lie in the arena") as usize / size_of::<f32>();
        (offset, self.graph.shape(p.tensor).numel())
    }
}

impl Program for CpuProgram {
    fn write(&mut self, input: TensorId, values: &[f32]) -> Result<()> {
        let slot = self.outside[input.0 as usize].as_mut().expect("an input of this graph");
        Arc::get_mut(slot).expect("inputs belong to one program").copy_from_slice(values);
        Ok(())
    }

    fn read(&self, output: TensorId, values: &mut [f32]) -> Result<()> {
        // An output may also be an input: the gradient through an identity is the cotangent itself.
        if let Some(outside) = &self.outside[self.graph.home(output).0 as usize] {
            values.copy_from_slice(outside);
            return Ok(());
        }
        let arena = self.arena.lock().unwrap_or_else(|e| e.into_inner());
        check_owner(arena.owner, self.id)?;
        let floats = arena.floats();
        let (offset, len) = self.span(self.newest[output.0 as usize].expect("an output of this graph"));
        values.copy_from_slice(&floats[offset..offset + len]);
        Ok(())
    }

    fn set_poison(&mut self, on: bool) {
        self.poison = on;
    }

    fn run(&mut self) -> Result<()> {
        self.run_each(|_, _, _| Ok(()))
    }

    fn time_nodes(&mut self) -> Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(self.plan.steps.len());
        self.run_each(|_, _, time| {
            times.push(time);
            Ok(())
        })?;
        Ok(times)
    }

    fn run_stepwise(&mut self) -> Result<()> {
        let (graph, plan) = (self.graph.clone(), self.plan.clone());
        self.run_each(|step, launch, _| {
            let outputs = step.outputs.iter().map(|o| plan.placements[o.0 as usize].tensor);
            let mut written = outputs.zip(&launch.outputs);
            written.try_for_each(|(id, values)| check_finite(&graph, step, id, Dtype::F32, values))
        })
    }
}

/// What is done after each step, with its data and its time.
trait AfterStep: FnMut(&Step, &CpuArguments<'_>, Duration) -> Result<()> + Send {}

impl<F: FnMut(&Step, &CpuArguments<'_>, Duration) -> Result<()> + Send> AfterStep for F {}

impl CpuProgram {
    /// Runs every step once. After each step, `after` gets the step, its data and its time. An
    /// error from it ends the run.
    fn run_each(&mut self, after: impl AfterStep) -> Result<()> {
        let arena = self.arena.clone();
        // The lock is taken before the run goes to the pool, whose threads may take up other runs
        // while they wait for a part of this one.
        let mut arena = arena.lock().unwrap_or_else(|e| e.into_inner());
        let arena = &mut *arena;
        // A loop that begins on a thread of the pool needs no other thread to be woken for it.
        rayon::scope(|_| self.run_in_pool(arena, after))
    }

    fn run_in_pool(&mut self, arena: &mut Arena, mut after: impl AfterStep) -> Result<()> {
        arena.owner = self.id;
        let floats = arena.floats_mut();
        if self.poison {
            floats.fill(f32::NAN);
        }
        let base = floats.as_mut_ptr();
        // Inputs that nodes overwrite: their memory by tensor.
        let mut overwritten = HashMap::new();
        for &input in &self.overwritten {
            let values = self.outside[input.0 as usize].as_mut().and_then(Arc::get_mut);
            overwritten.insert(input, values.expect("inputs belong to one program").as_mut_ptr());
        }
        for step in &self.plan.steps {
            let node = self.graph.node(step.node);
            let tensor_of = |i: &Instance| self.plan.placements[i.0 as usize].tensor;
            // For each output, the slot of the input whose memory it takes over.
            let slot_of = |replaced: usize| step.inputs.iter().position(|i| i.0 as usize == replaced);
            let taken = step.outputs.iter().map(|o| self.plan.placements[o.0 as usize].in_place_of.and_then(slot_of));
            let taken: Vec<Option<usize>> = taken.collect();
            let streamed = self.streamed(step)?;
            let inputs = step.inputs.iter().enumerate().map(|(slot, i)| -> &[f32] {
                if taken.contains(&Some(slot)) {
                    return &[];
                }
                if let Some((_, values)) = streamed.iter().find(|s| s.0 == slot) {
                    return values;
                }
                let tensor = self.graph.home(tensor_of(i));
                match (overwritten.get(&tensor), &self.outside[tensor.0 as usize]) {
                    // SAFETY: the plan was verified: no output of this step lies in the memory of
                    // this input, or the slot was left empty above.
                    (Some(&memory), _) => unsafe {
                        std::slice::from_raw_parts(memory, self.graph.shape(tensor).numel())
                    },
                    (None, Some(values)) => values,
                    (None, None) => {
                        let (offset, len) = self.span(i.0 as usize);
                        // SAFETY: the plan was verified. Inputs of a step lie inside the arena and
                        // do not overlap its outputs. The one input that may overlap is left empty
                        // above.
                        unsafe { std::slice::from_raw_parts(base.add(offset), len) }
                    }
                }
            });
            let outputs = step.outputs.iter().map(|o| {
                if let Some(&memory) = overwritten.get(&self.graph.home(tensor_of(o))) {
                    // SAFETY: as above; only one output of a step lies in an input's memory.
                    return unsafe { std::slice::from_raw_parts_mut(memory, self.graph.shape(tensor_of(o)).numel()) };
                }
                let (offset, len) = self.span(o.0 as usize);
                // SAFETY: as above; the outputs of a step do not overlap each other.
                unsafe { std::slice::from_raw_parts_mut(base.add(offset), len) }
            });
            let mut launch = CpuArguments {
                inputs: inputs.collect(),
                outputs: outputs.collect(),
                input_shapes: node.inputs.iter().map(|&i| self.graph.shape(i)).collect(),
                output_shapes: node.outputs.iter().map(|&o| self.graph.shape(o)).collect(),
                in_place: taken[0],
            };
            let start = Instant::now();
            node.op.run_cpu(&mut launch);
            after(step, &launch, start.elapsed())?;
        }
        Ok(())
    }
}
