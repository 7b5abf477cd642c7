//! Runs a plan on a CUDA device: everything is allocated and recorded once, and a run replays it.

use super::device::{Buffer, CudaDevice, Part, Wanted, decode};
use super::driver::Replay;
use super::record::{Places, located, record_steps};
use crate::backend::program::{Program, check_finite, check_owner, program_id};
use crate::error::Result;
use crate::graph::{Graph, Plan, Source, Tensor, TensorId};
use crate::launch::{NodeLaunches, Operand};
use crate::tensor::Dtype;
use crate::weights::Weights;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

/// A plan bound to a CUDA device.
pub struct CudaProgram {
    id: u64,
    device: CudaDevice,
    graph: Arc<Graph>,
    plan: Arc<Plan>,
    /// For each tensor: the memory of inputs, weights and constants.
    outside: Vec<Option<Part>>,
    /// For each tensor: the value that exists at the end of a run.
    newest: Vec<Option<usize>>,
    /// Tables of the nodes, in the order in which the nodes ask for them.
    tables: Vec<Buffer>,
    replay: Option<Box<dyn Replay>>,
    /// Addresses of the arena and scratch that `replay` was recorded with.
    recorded_for: (u64, u64),
    poison: bool,
}

impl CudaProgram {
    /// Uploads weights and constants, reserves the shared arena, and records every launch.
    pub fn new(graph: Arc<Graph>, plan: Arc<Plan>, weights: &Weights, device: CudaDevice) -> Result<Self> {
        device.forget_closed_models();
        let outside = outside(&graph, &plan, weights, &device)?;
        let mut newest = vec![None; graph.tensors().len()];
        for output in plan.steps.iter().flat_map(|s| &s.outputs) {
            newest[plan.placements[output.0 as usize].tensor.0 as usize] = Some(output.0 as usize);
        }
        let mut program = CudaProgram {
            id: program_id(),
            device,
            graph,
            plan,
            outside,
            newest,
            tables: Vec::new(),
            replay: None,
            recorded_for: (0, 0),
            poison: false,
        };
        // Growing moves the arena: no other program may run meanwhile, and all values in the arena
        // are lost.
        let device = program.device.clone();
        let mut owner = device.owner();
        *owner = 0;
        program.device.reserve_arena(program.plan.arena_bytes)?;
        program.record()?;
        Ok(program)
    }

    /// Records every launch of every step for the current addresses of arena and scratch. The
    /// scratch grows to the size that the largest node needs.
    fn record(&mut self) -> Result<()> {
        loop {
            let (arena, scratch, scratch_bytes) = self.device.places();
            let (driver, tables, outside) = (&self.device.driver, &mut self.tables, &self.outside);
            let mut asked = 0;
            let mut table = |bytes: &[u8]| -> Result<u64> {
                if asked == tables.len() {
                    let buffer = Buffer::new(driver, bytes.len() as u64)?;
                    driver.upload(buffer.address, bytes)?;
                    tables.push(buffer);
                }
                asked += 1;
                Ok(tables[asked - 1].address)
            };
            let graph = &self.graph;
            let of_outside =
                |tensor: TensorId| outside[graph.home(tensor).0 as usize].as_ref().map(|part| part.address);
            let places = Places { arena, scratch, outside: &of_outside };
            let (all, needed) = record_steps(&self.graph, &self.plan, driver.chip(), &places, &mut table)?;
            for launch in all.iter().flat_map(|n| &n.launches) {
                driver.check(launch)?;
            }
            if needed > scratch_bytes {
                self.device.reserve_scratch(needed)?;
                continue;
            }
            self.replay = Some(self.device.driver.instantiate(all)?);
            self.recorded_for = (arena, scratch);
            return Ok(());
        }
    }

    /// The recorded launches. They are recorded again if the shared arena or scratch has moved
    /// since.
    fn ready(&mut self) -> Result<&mut Box<dyn Replay>> {
        let (arena, scratch, _) = self.device.places();
        if self.replay.is_none() || self.recorded_for != (arena, scratch) {
            self.replay = None;
            self.record()?;
        }
        if self.poison {
            self.device.driver.fill(arena, self.plan.arena_bytes, 0xff)?;
        }
        Ok(self.replay.as_mut().expect("recorded above"))
    }

    /// The memory of an output of the last run. It may be an input: the gradient through an
    /// identity is the cotangent itself.
    ///
    /// Nothing else runs on the device while the guard lives.
    fn output(&self, output: TensorId) -> Result<(Operand, MutexGuard<'_, u64>)> {
        let owner = self.device.owner();
        if self.outside[self.graph.home(output).0 as usize].is_none() {
            check_owner(*owner, self.id)?;
        }
        let (arena, ..) = self.device.places();
        let offset = self.newest[output.0 as usize].and_then(|value| self.plan.placements[value].offset);
        Ok((self.located(output, arena + offset.unwrap_or(0)), owner))
    }

    fn located(&self, tensor: TensorId, place: u64) -> Operand {
        let outside = self.outside[self.graph.home(tensor).0 as usize].as_ref();
        located(&self.graph, &self.plan, tensor, outside.map_or(place, |part| part.address))
    }
}

/// For each tensor: the memory of inputs, weights and constants of a graph.
fn outside(graph: &Graph, plan: &Plan, weights: &Weights, device: &CudaDevice) -> Result<Vec<Option<Part>>> {
    let longest_input = graph.tensors().iter().filter(|t| matches!(t.source, Source::Input)).map(|t| t.shape.numel());
    let zeros = vec![0.0; longest_input.max().unwrap_or(0)];
    let (mut wanted, mut values) = (Vec::new(), Vec::new());
    for (i, t) in graph.tensors().iter().enumerate() {
        let on_host = plan.is_streamed(TensorId(i as u32));
        match &t.source {
            Source::Node(_) => (),
            Source::Weight(parts) => wanted.push(Wanted { name: &t.name, parts, dtype: plan.storage, on_host }),
            Source::Input => values.push((&t.name[..], &zeros[..t.shape.numel()], Dtype::F32)),
            Source::Constant(constant) => values.push((&t.name, constant, t.dtype(plan.storage))),
        }
    }
    let mut weights = device.weights(weights, &wanted)?.into_iter();
    let mut values = device.filled(&values)?.into_iter();
    let place = |t: &Tensor| match &t.source {
        Source::Node(_) => None,
        Source::Weight(_) => weights.next(),
        Source::Input | Source::Constant(_) => values.next(),
    };
    Ok(graph.tensors().iter().map(place).collect())
}

impl Program for CudaProgram {
    fn write(&mut self, input: TensorId, values: &[f32]) -> Result<()> {
        let part = self.outside[input.0 as usize].as_ref().expect("an input of this graph");
        self.device.driver.upload(part.address, bytemuck::cast_slice(values))
    }

    fn read(&self, output: TensorId, values: &mut [f32]) -> Result<()> {
        let (operand, _owner) = self.output(output)?;
        let mut bytes = vec![0; operand.bytes as usize];
        self.device.driver.download(operand.address, &mut bytes)?;
        decode(&bytes, operand.dtype, values);
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        let device = self.device.clone();
        let mut owner = device.owner();
        *owner = self.id;
        self.ready()?.run()
    }

    fn time_nodes(&mut self) -> Result<Vec<Duration>> {
        /// Launches of a node in one recording. With many, the gap before the first one hardly
        /// counts.
        const REPEATS: usize = 20;
        let device = self.device.clone();
        let mut owner = device.owner();
        *owner = self.id;
        self.ready()?;
        let (arena, scratch, _) = device.places();
        let home = |tensor: TensorId| self.graph.home(tensor).0 as usize;
        let outside = |tensor: TensorId| self.outside[home(tensor)].as_ref().map(|part| part.address);
        let places = Places { arena, scratch, outside: &outside };
        let mut tables = self.tables.iter();
        let mut table = |_: &[u8]| Ok(tables.next().expect("recorded before").address);
        let (nodes, _) = record_steps(&self.graph, &self.plan, device.driver.chip(), &places, &mut table)?;
        let time = |node: NodeLaunches| {
            let mut replay = device.driver.instantiate(vec![node; REPEATS])?;
            replay.run()?;
            Ok(replay.time()? / REPEATS as u32)
        };
        nodes.into_iter().map(time).collect()
    }

    fn run_stepwise(&mut self) -> Result<()> {
        let device = self.device.clone();
        let mut owner = device.owner();
        *owner = self.id;
        let (graph, plan) = (self.graph.clone(), self.plan.clone());
        let (arena, ..) = device.places();
        let mut bytes = Vec::new();
        for (k, step) in plan.steps.iter().enumerate() {
            let replay =
                if k == 0 { self.ready()? } else { self.replay.as_mut().expect("recorded for the first step") };
            replay.run_node(k)?;
            for output in &step.outputs {
                let placement = &plan.placements[output.0 as usize];
                let place = arena + placement.offset.unwrap_or(0);
                let operand = self.located(placement.tensor, place);
                bytes.resize(operand.bytes as usize, 0);
                device.driver.download(operand.address, &mut bytes)?;
                let mut values = vec![0.0; operand.shape.numel()];
                decode(&bytes, operand.dtype, &mut values);
                check_finite(&graph, step, placement.tensor, plan.storage, &values)?;
            }
        }
        Ok(())
    }

    fn set_poison(&mut self, on: bool) {
        self.poison = on;
    }

    fn input_address(&self, input: TensorId) -> Option<u64> {
        self.outside[input.0 as usize].as_ref().map(|part| part.address)
    }

    fn copy_out(&self, output: TensorId, count: usize, to: &mut dyn Program, input: TensorId) -> Result<()> {
        let (from, owner) = self.output(output)?;
        match to.input_address(input) {
            Some(address) if from.dtype == Dtype::F32 => self.device.driver.copy(address, from.address, from.bytes),
            _ => {
                drop(owner);
                let mut values = vec![0.0; count];
                self.read(output, &mut values)?;
                to.write(input, &values)
            }
        }
    }

    fn carry(&mut self, output: TensorId, count: usize, input: TensorId) -> Result<()> {
        let to = self.input_address(input).expect("an input of this graph");
        let (from, owner) = self.output(output)?;
        if from.dtype == Dtype::F32 {
            return self.device.driver.copy(to, from.address, from.bytes);
        }
        drop(owner);
        let mut values = vec![0.0; count];
        self.read(output, &mut values)?;
        self.write(input, &values)
    }
}
