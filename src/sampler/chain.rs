//! Runs the phases of a method step by step, from noise to an image, and passes states between
//! them.

use super::batch::Batch;
use super::level::{Level, Moment};
use super::phase::{Phase, StateUse};
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::graph::TensorId;
use std::collections::{BTreeMap, BTreeSet};

/// The phases of a method, made ready on a device.
pub struct Machine {
    phases: Vec<Phase>,
    executors: Vec<Executor>,
    levels: Vec<Level>,
    /// For each level, the levels between it and the clean image at which the method evaluates the
    /// network, least noise first.
    inner: Vec<Vec<Level>>,
    /// Number of runs of each phase since the batch began.
    runs: Vec<usize>,
    /// For each state, the phases whose input holds its newest value.
    newest: BTreeMap<&'static str, BTreeSet<usize>>,
    /// Coefficients and timestep that were last written to each phase's inputs.
    written: Vec<Vec<f32>>,
}

impl Machine {
    /// One executor for each phase. Without executors a machine can only rehearse, which counts
    /// runs.
    pub fn new(phases: Vec<Phase>, executors: Vec<Executor>, levels: Vec<Level>, inner: Vec<Vec<Level>>) -> Machine {
        let (written, runs) = (vec![Vec::new(); phases.len()], vec![0; phases.len()]);
        Machine { phases, executors, levels, inner, runs, newest: BTreeMap::new(), written }
    }

    /// The executors, one per phase.
    pub fn executors(&self) -> Vec<&Executor> {
        self.executors.iter().collect()
    }

    /// The phases.
    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    pub(super) fn set_poison(&mut self, on: bool) {
        self.executors.iter_mut().for_each(|e| e.set_poison(on));
    }

    /// True if a phase reports a residual.
    pub(super) fn is_reported(&self) -> bool {
        self.phases.iter().any(|p| p.reported.is_some())
    }

    /// Copies a batch to the device. x and the other states stay on the device from step to step.
    pub(super) fn begin(&mut self, batch: &Batch) -> Result<()> {
        for (phase, e) in self.phases.iter().zip(&mut self.executors) {
            phase.write_batch(e, batch)?;
        }
        self.written.iter_mut().for_each(Vec::clear);
        self.runs.fill(0);
        let names: BTreeSet<&'static str> = self.states().map(|s| s.name).collect();
        for name in names {
            let start = self.states().filter(|s| s.name == name).find_map(|s| s.start.clone());
            self.write(name, if name == "x" { Some(&batch.x) } else { start.as_deref() })?;
        }
        Ok(())
    }

    fn states(&self) -> impl Iterator<Item = &StateUse> {
        self.phases.iter().flat_map(|p| &p.states)
    }

    /// Writes a state, or zeros if no values are given. Only the first phase that reads it gets it
    /// now; other phases get a copy when they run.
    fn write(&mut self, name: &'static str, values: Option<&[f32]>) -> Result<()> {
        let Some((holder, input)) = self.inputs_of(name).next() else { return Ok(()) };
        let e = &mut self.executors[holder];
        match values {
            Some(values) => e.write(input, values)?,
            None => e.write(input, &vec![0.0; e.graph().shape(input).numel()])?,
        }
        self.newest.insert(name, BTreeSet::from([holder]));
        Ok(())
    }

    /// Each phase that reads a state, with the input that holds it.
    fn inputs_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (usize, TensorId)> + 'a {
        let input = move |p: &'a Phase| p.states.iter().find(|s| s.name == name).and_then(|s| s.input);
        self.phases.iter().enumerate().filter_map(move |(k, p)| Some((k, input(p)?)))
    }

    fn input(&self, phase: usize, name: &str) -> Option<TensorId> {
        self.phases[phase].states.iter().find(|s| s.name == name).and_then(|s| s.input)
    }

    /// Reads the newest value of a state.
    pub(super) fn read_state(&self, name: &str, values: &mut [f32]) -> Result<()> {
        let holder = self.newest.get(name).and_then(|h| h.first().copied());
        let found = holder.and_then(|h| Some((h, self.input(h, name)?)));
        let Some((holder, input)) = found else {
            return Err(Error::Invalid(format!("no phase of this method reads the state {name}")));
        };
        // Reads the input and not the output: executors share an arena, so another run may have
        // overwritten the output.
        self.executors[holder].read_into(input, values)
    }

    /// Step `index` of a batch.
    pub(super) fn chain<'a>(&'a mut self, index: usize, batch: &'a mut Batch) -> Chain<'a> {
        Chain { batch: Some(batch), ..self.rehearsal(index) }
    }

    /// Step `index` without a batch: nothing runs, but runs are counted.
    pub(super) fn rehearsal(&mut self, index: usize) -> Chain<'_> {
        let runs = vec![0; self.phases.len()];
        Chain { level: self.levels[index], machine: self, batch: None, runs, unread: None }
    }

    /// Noise levels of a run, least noise first.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }
}

/// One step of a chain, from noise level t to t - 1. A method runs its phases on it.
pub struct Chain<'a> {
    /// The level of this step.
    pub level: Level,
    machine: &'a mut Machine,
    /// None in a rehearsal.
    batch: Option<&'a mut Batch>,
    /// Runs of each phase at this step.
    runs: Vec<usize>,
    /// The phase whose reported residual norms have not been read from the device yet.
    unread: Option<usize>,
}

impl Chain<'_> {
    /// Runs a phase at this step's level.
    pub fn run(&mut self, phase: &str) -> Result<()> {
        self.run_at(phase, self.level.index)
    }

    /// Runs a phase with the network evaluated at level `at` (0 has the least noise). Fails if the
    /// method has no such phase.
    pub fn run_at(&mut self, phase: &str, at: usize) -> Result<()> {
        self.run_with(phase, self.machine.levels[at])
    }

    /// Runs a phase with the network evaluated at inner level `at` of this step (see
    /// [`Method::inner_sigmas`](super::method::Method::inner_sigmas); 0 has the least noise).
    pub fn run_inner(&mut self, phase: &str, at: usize) -> Result<()> {
        self.run_with(phase, self.machine.inner[self.level.index][at])
    }

    fn run_with(&mut self, phase: &str, at: Level) -> Result<()> {
        let k = self.phase(phase)?;
        let moment = Moment { level: self.level, at, round: self.runs[k], earlier: self.machine.runs[k] };
        self.runs[k] += 1;
        self.machine.runs[k] += 1;
        if self.unread != Some(k) {
            self.read_residual()?;
        }
        let Some(batch) = self.batch.as_deref() else { return Ok(()) };
        bring_states(self.machine, k)?;
        let m = &mut *self.machine;
        let (p, e) = (&m.phases[k], &mut m.executors[k]);
        p.write_moment(e, &moment, batch, &mut m.written[k])?;
        e.run()?;
        if p.reported.is_some() {
            self.unread = Some(k);
        }
        if let Some(trace) = self.batch.as_deref_mut().and_then(|b| b.trace.as_mut()) {
            trace.read(&p.traced, e)?;
        }
        keep_states(self.machine, k)
    }

    /// Sets a state to zeros.
    pub fn clear(&mut self, state: &'static str) -> Result<()> {
        if self.batch.is_some() { self.machine.write(state, None) } else { Ok(()) }
    }

    /// Reads a named output of the phase that ran last. None in a rehearsal. Fails if the phase has
    /// no such output.
    pub fn read(&mut self, phase: &str, output: &str) -> Result<Option<Vec<f32>>> {
        let k = self.phase(phase)?;
        let Some((_, id)) = self.machine.phases[k].outputs.iter().find(|o| o.0 == output) else {
            return Err(Error::Invalid(format!("phase {phase} has no output {output}")));
        };
        self.batch.as_ref().map(|_| self.machine.executors[k].read(*id)).transpose()
    }

    /// Freezes the items whose residual norm is at most `share` times the norm of their noise. True
    /// if all items are frozen.
    pub fn freeze(&mut self, residual: &[f32], share: f32) -> bool {
        let Some(batch) = self.batch.as_deref_mut() else { return false };
        for ((frozen, r), norm) in batch.is_frozen.iter_mut().zip(residual).zip(&batch.noise_norm) {
            *frozen |= *r <= share * norm;
        }
        batch.is_frozen.iter().all(|f| *f)
    }

    /// Unfreezes all items.
    pub fn thaw(&mut self) {
        if let Some(batch) = self.batch.as_deref_mut() {
            batch.is_frozen.fill(false);
        }
    }

    fn phase(&self, name: &str) -> Result<usize> {
        let found = self.machine.phases.iter().position(|p| p.name == name);
        found.ok_or_else(|| Error::Invalid(format!("this method has no phase {name}")))
    }

    fn read_residual(&mut self) -> Result<()> {
        let (Some(k), Some(batch)) = (self.unread.take(), self.batch.as_mut()) else { return Ok(()) };
        let Some(reported) = self.machine.phases[k].reported else { return Ok(()) };
        self.machine.executors[k].read_into(reported, &mut batch.residual)
    }

    /// Ends the step: reads the residual norms that were reported last. Gives the number of runs of
    /// each phase.
    pub(super) fn finish(mut self) -> Result<Vec<usize>> {
        self.read_residual()?;
        Ok(self.runs)
    }
}

/// Copies the newest values of states to the inputs of phase `k`.
fn bring_states(m: &mut Machine, k: usize) -> Result<()> {
    for state in &m.phases[k].states {
        let Some(input) = state.input else { continue };
        let holders = m.newest.entry(state.name).or_insert_with(|| BTreeSet::from([k]));
        if holders.insert(k) {
            let from = *holders.iter().find(|&&h| h != k).expect("a state is held by some phase");
            let held = m.phases[from].states.iter().find(|s| s.name == state.name).and_then(|s| s.input);
            let [from, to] = m.executors.get_disjoint_mut([from, k]).expect("two phases");
            from.copy_to(held.expect("a holder reads the state"), to, input)?;
        }
    }
    Ok(())
}

/// Copies the states that phase `k` has set out of the arena, which the next phase may overwrite.
fn keep_states(m: &mut Machine, k: usize) -> Result<()> {
    for state in &m.phases[k].states {
        let Some(next) = state.next else { continue };
        let own = state.input.map(|input| (k, input));
        let Some((holder, input)) = own.or_else(|| m.inputs_of(state.name).next()) else {
            let reason = format!("phase {} sets the state {}, which no phase reads", m.phases[k].name, state.name);
            return Err(Error::Invalid(reason));
        };
        m.newest.insert(state.name, BTreeSet::from([holder]));
        if holder == k {
            m.executors[k].carry(next, input)?;
        } else {
            let [from, to] = m.executors.get_disjoint_mut([k, holder]).expect("two phases");
            from.copy_to(next, to, input)?;
        }
    }
    Ok(())
}
