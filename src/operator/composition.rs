//! Two operators, one after the other.

use super::baseline::baseline;
use super::contract::{Observed, Operator, StateOrigin};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::image::Picture;
use crate::tensor::Shape;
use std::path::PathBuf;
use std::sync::Arc;

/// `A(x) = second(first(x))`. At most one of the two has a state, which is then the state of both.
#[derive(Debug)]
pub struct Composition {
    /// Sees the image.
    first: Arc<dyn Operator>,
    /// Sees what the first one makes of it.
    second: Arc<dyn Operator>,
    /// True if the state is that of the second operator.
    state_is_second: bool,
}

impl Composition {
    /// The operator that measures with `first`, and then measures that with `second`. Fails if both
    /// have a state.
    pub fn new(first: Arc<dyn Operator>, second: Arc<dyn Operator>) -> Result<Composition> {
        // Whether there is a state does not depend on the size.
        let has_state = |operator: &dyn Operator| operator.state_shape(Shape::new(1, 256, 256, 3)).is_some();
        let state_is_second = has_state(second.as_ref());
        if state_is_second && has_state(first.as_ref()) {
            let tasks = format!("{}+{}", first.task(), second.task());
            return Err(Error::Invalid(format!("task {tasks}: both have a mask or kernel, and only one may")));
        }
        Ok(Composition { first, second, state_is_second })
    }

    /// The states of both.
    fn states<'a>(&self, state: &'a [f32]) -> [&'a [f32]; 2] {
        if self.state_is_second { [&[], state] } else { [state, &[]] }
    }
}

impl Operator for Composition {
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
        if self.state_is_second { self.second.draw_state(seen, seed) } else { self.first.draw_state(x, seed) }
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
        match self.state_is_second {
            true => self.second.check_state(self.first.measurement_shape(x), state),
            false => self.first.check_state(x, state),
        }
    }
    fn observed<'a>(&self, state: &'a [f32]) -> Observed<'a> {
        self.second.observed(self.states(state)[1])
    }
    fn check(&self, x: Shape) -> Result<()> {
        self.first.check(x)?;
        self.second.check(self.first.measurement_shape(x))
    }
    fn build(&self, g: &mut Graph, x: TensorId, state: Option<TensorId>) -> Result<TensorId> {
        let (first, second) = if self.state_is_second { (None, state) } else { (state, None) };
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
