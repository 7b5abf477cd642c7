//! Options and inputs that forward and VJP of a group norm have in common.

use super::super::prelude::*;

/// What forward and VJP have in common.
#[derive(Debug, Clone, Copy)]
pub struct GroupNormOptions {
    /// Groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// The inputs have a FiLM scale and shift.
    pub film: bool,
    /// SiLU at the end.
    pub silu: bool,
    /// The channels of a second tensor follow those of x. No concatenation is made.
    pub second: bool,
}

/// The inputs that forward and VJP of a group norm share: tensors of a graph, their places, descriptions, data or operands. A
/// node has them in the order of the fields, without the ones that are absent; the VJP has mean and rstd after x.
#[derive(Debug, Clone, Copy)]
pub struct GroupNormInputs<T> {
    /// The tensor (n, h, w, c).
    pub x: T,
    /// Factors (1, 1, 1, c + channels of `second`).
    pub gamma: T,
    /// Offsets, of gamma's shape.
    pub beta: T,
    /// Scale and shift of every item (n, 1, 1, 2 (c + channels of `second`)).
    pub film: Option<T>,
    /// A tensor whose channels follow those of x.
    pub second: Option<T>,
}

/// What a group norm reads beside x and the weights that bear its name.
#[derive(Debug, Clone, Copy)]
pub struct GroupNormExtra<T> {
    /// As in [`GroupNormInputs`].
    pub film: Option<T>,
    /// As in [`GroupNormInputs`].
    pub second: Option<T>,
}

impl<T> GroupNormExtra<T> {
    /// Nothing.
    pub const NONE: GroupNormExtra<T> = GroupNormExtra { film: None, second: None };
}

impl<T: Copy> GroupNormInputs<T> {
    /// In the order of a forward node's inputs.
    pub fn to_vec(&self) -> Vec<T> {
        [Some(self.x), Some(self.gamma), Some(self.beta), self.film, self.second].into_iter().flatten().collect()
    }
}

impl GroupNormOptions {
    /// Of one tensor, without FiLM.
    pub const fn new(groups: usize, eps: f32, silu: bool) -> GroupNormOptions {
        GroupNormOptions { groups, eps, film: false, silu, second: false }
    }

    /// Number of inputs of a forward node.
    pub(super) fn count(&self) -> usize {
        3 + usize::from(self.film) + usize::from(self.second)
    }

    /// The inputs of a node by name: x, and the others from gamma on.
    ///
    /// # Panics
    ///
    /// If there are fewer than these options ask for.
    pub fn inputs<T: Copy>(&self, x: T, from_gamma: &[T]) -> GroupNormInputs<T> {
        let mut left = from_gamma.iter().copied();
        let mut next = || left.next().expect("an input for each that the options ask for");
        let [gamma, beta] = [next(), next()];
        GroupNormInputs { x, gamma, beta, film: self.film.then(&mut next), second: self.second.then(&mut next) }
    }

    /// The place of each input among those of a forward node.
    pub fn places(&self) -> GroupNormInputs<usize> {
        self.inputs(0, &[1, 2, 3, 4])
    }
}

impl GroupNormInputs<&Tensor> {
    /// Extent of x and the second tensor together; an error if the shapes don't fit each other.
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
