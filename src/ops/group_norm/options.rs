//! What forward and VJP of a group norm have in common.

use super::super::prelude::*;

/// What forward and VJP have in common.
#[derive(Debug, Clone, Copy)]
pub struct GroupNormOptions {
    /// Groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// A FiLM input follows the parameters.
    pub film: bool,
    /// SiLU at the end.
    pub silu: bool,
    /// A second source follows: its channels come after those of x, without a concatenation being made.
    pub joined: bool,
}

impl GroupNormOptions {
    /// Of one tensor, without FiLM.
    pub const fn new(groups: usize, eps: f32, silu: bool) -> GroupNormOptions {
        GroupNormOptions { groups, eps, film: false, silu, joined: false }
    }

    /// What comes from gamma on: gamma, beta, film, second source.
    pub(super) fn parameters(&self) -> usize {
        2 + self.film as usize + self.joined as usize
    }

    /// The second source, of the parameters.
    pub(super) fn second<'a, T>(&self, parameters: &'a [T]) -> Option<&'a T> {
        self.joined.then(|| &parameters[2 + self.film as usize])
    }

    /// Extent of what is normalised, x and what follows its channels.
    pub(super) fn check(&self, x: &Tensor, parameters: &[&Tensor]) -> Result<Shape, String> {
        let mut s = x.shape;
        if let Some(second) = self.second(parameters) {
            expect_shape(second, Shape { c: second.shape.c, ..s })?;
            s.c += second.shape.c;
        }
        if s.c % self.groups != 0 {
            return Err(format!("{} channels do not divide into {} groups", s.c, self.groups));
        }
        expect_shape(parameters[0], Shape::vector(s.c))?;
        expect_shape(parameters[1], Shape::vector(s.c))?;
        if self.film {
            expect_shape(parameters[2], Shape::rows(s.n, 2 * s.c))?;
        }
        Ok(s)
    }
}
