//! Two operators, one after the other.

use super::baseline::baseline;
use super::contract::{Observed, Operator, StateOrigin};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::image::Picture;
use crate::tensor::Shape;
use std::path::PathBuf;
use std::sync::Arc;

/// `A(x) = B(A'(x))`. At most one of the two has a state, which is then the state of both.
#[derive(Debug)]
pub struct Chain {
    /// A', which sees the image.
    pub first: Arc<dyn Operator>,
    /// B, which sees what the first one makes of it.
    pub second: Arc<dyn Operator>,
}

/// A small image, for questions whose answer does not depend on the size.
const ANY: Shape = Shape::new(1, 256, 256, 3);

impl Chain {
    /// Fails if both operators have a state.
    pub fn new(first: Arc<dyn Operator>, second: Arc<dyn Operator>) -> Result<Chain> {
        if first.state_shape(ANY).is_some() && second.state_shape(ANY).is_some() {
            return Err(Error::Invalid(format!(
                "task {}+{}: both have a mask or kernel; of a chain only one may",
                first.task(),
                second.task()
            )));
        }
        Ok(Chain { first, second })
    }

    /// True if the second operator has the state.
    fn state_is_second(&self) -> bool {
        self.second.state_shape(ANY).is_some()
    }

    /// The states of both.
    fn states<'a>(&self, state: &'a [f32]) -> [&'a [f32]; 2] {
        if self.state_is_second() { [&[], state] } else { [state, &[]] }
    }
}

impl Operator for Chain {
    fn task(&self) -> String {
        format!("{}+{}", self.first.task(), self.second.task())
    }
    fn measurement_shape(&self, x: Shape) -> Shape {
        self.second.measurement_shape(self.first.measurement_shape(x))
    }
    fn image_shape(&self, y: Shape) -> Shape {
        self.first.image_shape(self.second.image_shape(y))
    }
    fn state_shape(&self, x: Shape) -> Option<Shape> {
        self.first.state_shape(x).or_else(|| self.second.state_shape(self.first.measurement_shape(x)))
    }
    fn draw_state(&self, x: Shape, seed: u64) -> Result<Vec<f32>> {
        let seen = self.first.measurement_shape(x);
        if self.state_is_second() { self.second.draw_state(seen, seed) } else { self.first.draw_state(x, seed) }
    }
    fn state_origin(&self) -> StateOrigin<'_> {
        match self.first.state_origin() {
            StateOrigin::None => self.second.state_origin(),
            origin => origin,
        }
    }
    fn files(&self) -> Vec<PathBuf> {
        [self.first.files(), self.second.files()].concat()
    }
    fn check_state(&self, x: Shape, state: &[f32]) -> Result<()> {
        match self.state_is_second() {
            true => self.second.check_state(self.first.measurement_shape(x), state),
            false => self.first.check_state(x, state),
        }
    }
    fn observed<'a>(&self, state: &'a [f32]) -> Observed<'a> {
        if self.state_is_second() { self.second.observed(state) } else { self.second.observed(&[]) }
    }
    fn check(&self, x: Shape) -> Result<()> {
        self.first.check(x)?;
        self.second.check(self.first.measurement_shape(x))
    }
    fn build(&self, g: &mut Graph, x: TensorId, state: Option<TensorId>) -> Result<TensorId> {
        let (first, second) = if self.state_is_second() { (None, state) } else { (state, None) };
        let seen = self.first.build(g, x, first)?;
        self.second.build(g, seen, second)
    }
    fn is_linear(&self) -> bool {
        self.first.is_linear() && self.second.is_linear()
    }
    fn measures_pictures(&self) -> bool {
        self.second.measures_pictures()
    }
    fn picture(&self, y: &[f32], shape: Shape) -> Picture {
        self.second.picture(y, shape)
    }
    fn naive(&self, y: &[f32], state: &[f32], x: Shape) -> Option<(&'static str, Picture)> {
        let [first, second] = self.states(state);
        let seen = self.first.measurement_shape(x);
        let (_, between) = baseline(self.second.as_ref(), y, second, seen);
        // A picture has three channels, the first measurement may have one.
        let values: Vec<f32> = match seen.c {
            1 => between.values.iter().step_by(3).copied().collect(),
            _ => between.values,
        };
        Some(baseline(self.first.as_ref(), &values, first, x))
    }
    fn restarts(&self) -> u32 {
        self.first.restarts().max(self.second.restarts())
    }
}
