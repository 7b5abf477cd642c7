//! The graphs of a method, recorded without a device.

use super::phase::Phase;
use super::setup::Setup;
use super::step::Step;
use crate::error::Result;

/// The phases of a method: graphs that share states. The method decides when each one runs.
pub struct Phases<'a> {
    /// Model, operator, shapes and schedule.
    pub setup: &'a Setup<'a>,
    recorded: Vec<Phase>,
}

impl<'a> Phases<'a> {
    /// An empty list.
    pub fn new(setup: &'a Setup<'a>) -> Phases<'a> {
        Phases { setup, recorded: Vec::new() }
    }

    /// Records a phase. Fails if `record` fails or uses too many scalars.
    pub fn add(&mut self, name: &'static str, record: impl FnOnce(&mut Step<'a>) -> Result<()>) -> Result<()> {
        let mut step = Step::new(self.setup);
        record(&mut step)?;
        self.recorded.push(step.finish(name)?);
        Ok(())
    }

    /// The recorded phases, in order.
    pub fn finish(self) -> Vec<Phase> {
        self.recorded
    }
}
