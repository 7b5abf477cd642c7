//! Two operators, one after the other.

use super::baseline::baseline;
use super::contract::{Observed, Operator, StateOrigin};
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::image::Picture;
use crate::ops::axis_filter::Taps;
use crate::ops::sparse_product::SparseProduct;
use crate::tensor::Shape;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// `A(x) = second(first(x))`. If both have a state, that of A is the values of the first one's and
/// then those of the second one's, as (n, 1, 1, values).
#[derive(Debug)]
pub struct Composition {
    /// Sees the image.
    pub first: Arc<dyn Operator>,
    /// Sees what the first one makes of it.
    pub second: Arc<dyn Operator>,
}

impl Composition {
    /// Shapes of the states of both, for images of shape `x`.
    fn state_shapes(&self, x: Shape) -> [Option<Shape>; 2] {
        [self.first.state_shape(x), self.second.state_shape(self.first.measurement_shape(x))]
    }

    /// The states of both, for one image of shape `x`.
    fn states<'a>(&self, x: Shape, state: &'a [f32]) -> [&'a [f32]; 2] {
        let (first, second) = state.split_at(self.state_shapes(x)[0].map_or(0, |s| s.item()));
        [first, second]
    }

    /// The states of both as tensors, from that of A.
    fn state_tensors(&self, g: &mut Graph, x: Shape, state: Option<TensorId>) -> Result<[Option<TensorId>; 2]> {
        let shapes = self.state_shapes(x);
        let ([Some(first), Some(second)], Some(state)) = (shapes, state) else {
            return Ok(shapes.map(|shape| state.filter(|_| shape.is_some())));
        };
        let all = first.item() + second.item();
        let mut part = |name: &str, values: Range<usize>, shape: Shape| {
            let matrix = Arc::new(Taps { rows: values.map(|i| vec![(i, 1.0)]).collect(), inputs: all });
            g.one(SparseProduct { matrix, item: Shape { n: 1, ..shape } }, name, &[state]).map(Some)
        };
        Ok([part("state.first", 0..first.item(), first)?, part("state.second", first.item()..all, second)?])
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
        match self.state_shapes(x) {
            [Some(first), Some(second)] => Some(Shape::rows(x.n, first.item() + second.item())),
            [first, second] => first.or(second),
        }
    }
    fn draw_state(&self, x: Shape, seed: u64) -> Result<Vec<f32>> {
        let second = self.second.draw_state(self.first.measurement_shape(x), seed)?;
        Ok([self.first.draw_state(x, seed)?, second].concat())
    }
    fn state_origin(&self) -> StateOrigin<'_> {
        match (self.first.state_origin(), self.second.state_origin()) {
            (StateOrigin::None, origin) | (origin, StateOrigin::None) => origin,
            (StateOrigin::File(path), StateOrigin::File(_)) => StateOrigin::File(path),
            _ => StateOrigin::Drawn { given: None },
        }
    }
    fn files(&self) -> Vec<PathBuf> {
        [self.first.files(), self.second.files()].concat()
    }
    fn check_state(&self, x: Shape, state: &[f32]) -> Result<()> {
        let ([first, second], has) = (self.states(x, state), self.state_shapes(x).map(|shape| shape.is_some()));
        if has[0] {
            self.first.check_state(x, first)?;
        }
        if has[1] {
            self.second.check_state(self.first.measurement_shape(x), second)?;
        }
        Ok(())
    }
    fn observed<'a>(&self, x: Shape, state: &'a [f32]) -> Observed<'a> {
        self.second.observed(self.first.measurement_shape(x), self.states(x, state)[1])
    }
    fn check(&self, x: Shape) -> Result<()> {
        self.first.check(x)?;
        self.second.check(self.first.measurement_shape(x))
    }
    fn build(&self, g: &mut Graph, x: TensorId, state: Option<TensorId>) -> Result<TensorId> {
        let shape = g.shape(x);
        let [first, second] = self.state_tensors(g, shape, state)?;
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
        let [first, second] = self.states(x, state);
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
