//! The graphs of a method, recorded without a device.

use super::phase::Phase;
use super::setup::Setup;
use super::step::Step;
use crate::error::Result;

/// The phases of a method: graphs that share states, each run when the method says so.
pub struct Phases<'a> {
    /// Model, operator, extents and schedule.
    pub setup: &'a Setup<'a>,
    recorded: Vec<Phase>,
}

impl<'a> Phases<'a> {
    /// None yet.
    pub fn new(setup: &'a Setup<'a>) -> Phases<'a> {
        Phases { setup, recorded: Vec::new() }
    }

    /// Records a phase.
    pub fn add(&mut self, name: &'static str, record: impl FnOnce(&mut Step<'a>) -> Result<()>) -> Result<()> {
        let mut step = Step::new(self.setup);
        record(&mut step)?;
        self.recorded.push(step.finish(name)?);
        Ok(())
    }

    /// What was recorded, in order.
    pub fn finish(self) -> Vec<Phase> {
        self.recorded
    }
}
