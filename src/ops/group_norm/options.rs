//! Options and inputs that a group norm and its VJP share.

use super::super::prelude::*;

/// Options that a group norm and its VJP share.
#[derive(Debug, Clone, Copy)]
pub struct GroupNormOptions {
    /// Number of channel groups.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// The op has a FiLM input with scale and shift.
    pub film: bool,
    /// Applies SiLU to the output.
    pub silu: bool,
    /// The op has an input `second`, whose channels follow those of x. Nothing is concatenated in
    /// memory.
    pub second: bool,
}

/// The inputs of a group norm and its VJP. `T` is a tensor id, a position, a description, data or
/// an operand. A node has them in the order of the fields, without the absent ones; the VJP has
/// mean and rstd after x.
#[derive(Debug, Clone, Copy)]
pub struct GroupNormInputs<T> {
    /// The tensor (n, h, w, c).
    pub x: T,
    /// Factors (1, 1, 1, c + channels of `second`).
    pub gamma: T,
    /// Offsets, of gamma's shape.
    pub beta: T,
    /// Scale, then shift, of every item (n, 1, 1, 2 (c + channels of `second`)).
    pub film: Option<T>,
    /// A tensor (n, h, w, any) whose channels follow those of x.
    pub second: Option<T>,
}

/// Inputs of a group norm beside x, gamma and beta.
#[derive(Debug, Clone, Copy)]
pub struct GroupNormExtra<T> {
    /// See [`GroupNormInputs`].
    pub film: Option<T>,
    /// See [`GroupNormInputs`].
    pub second: Option<T>,
}

impl<T> GroupNormExtra<T> {
    /// No further inputs.
    pub const NONE: GroupNormExtra<T> = GroupNormExtra { film: None, second: None };
}

impl<T: Copy> GroupNormInputs<T> {
    /// The inputs in the order of a forward node.
    pub fn to_vec(&self) -> Vec<T> {
        [Some(self.x), Some(self.gamma), Some(self.beta), self.film, self.second].into_iter().flatten().collect()
    }
}

impl GroupNormOptions {
    /// Options for one tensor without FiLM.
    pub const fn new(groups: usize, eps: f32, silu: bool) -> GroupNormOptions {
        GroupNormOptions { groups, eps, film: false, silu, second: false }
    }

    /// Number of inputs of a forward node.
    pub(super) fn count(&self) -> usize {
        3 + usize::from(self.film) + usize::from(self.second)
    }

    /// The inputs of a node by name. `from_gamma` holds all inputs from gamma on.
    ///
    /// # Panics
    ///
    /// If `from_gamma` has fewer inputs than these options ask for.
    pub fn inputs<T: Copy>(&self, x: T, from_gamma: &[T]) -> GroupNormInputs<T> {
        let mut left = from_gamma.iter().copied();
        let mut next = || left.next().expect("an input for each that the options ask for");
        let [gamma, beta] = [next(), next()];
        GroupNormInputs { x, gamma, beta, film: self.film.then(&mut next), second: self.second.then(&mut next) }
    }

    /// The position of each input of a forward node.
    pub fn places(&self) -> GroupNormInputs<usize> {
        self.inputs(0, &[1, 2, 3, 4])
    }
}

impl GroupNormInputs<&Tensor> {
    /// Shape of x and `second` together; an error if the shapes don't match.
    pub(super) fn check(&self, groups: usize) -> Result<Shape, String> {
        let mut s = self.x.shape;
        if let Some(second) = self.second {
            expect_shape(second, Shape { c: second.shape.c, ..s })?;
            s.c += second.shape.c;
        }
        if s.c % groups != 0 {
            return Err(format!("{} channels do not divide into {groups} groups", s.c));
        }
        expect_shape(self.gamma, Shape::vector(s.c))?;
        expect_shape(self.beta, Shape::vector(s.c))?;
        if let Some(film) = self.film {
            expect_shape(film, Shape::rows(s.n, 2 * s.c))?;
        }
        Ok(s)
    }
}
