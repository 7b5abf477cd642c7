//! The proximal step of the data term: it moves a guess towards an image that explains the
//! measurement.
//!
//! `prox(z) = argmin_x || A x - y ||^2 / (2 s^2) + || x - z ||^2 / (2 r^2)`, with the standard
//! deviations s of the noise and r of the guess. With rho = s^2 / r^2 this is `z + A^T u`, where
//! `(A A^T + rho) u = y - A z`. Conjugate gradients solve for u in the space of the measurement.
//! They need only A and A^T: no network is evaluated, and the singular values of the operator need
//! not be known.

use super::step::{Scalar, Step};
use crate::error::{Error, Result};
use crate::graph::{TensorId, adjoint};
use crate::ops::add::Add;
use crate::ops::conjugate_gradient::{InnerProduct, RatioStep};

impl Step<'_> {
    /// prox(z) of a linear operator by `iterations` conjugate gradient steps (at least 1). `z` is a
    /// clean image of the canvas shape. With rho = 0 it approximates z + A^+ (y - A z). Fails if
    /// the operator is not linear.
    pub fn proximal(&mut self, z: TensorId, rho: Scalar, iterations: usize) -> Result<TensorId> {
        let correction = self.proximal_correction(z, rho, iterations)?;
        self.graph.one(Add { scale: 1.0 }, "prox", &[z, correction])
    }

    /// prox(z) - z = A^T (A A^T + rho)^-1 (y - A z). See [`Step::proximal`].
    pub fn proximal_correction(&mut self, z: TensorId, rho: Scalar, iterations: usize) -> Result<TensorId> {
        let operator = self.setup.operator;
        if !operator.is_linear() {
            return Err(Error::Invalid(format!(
                "a proximal step needs a linear operator, which {} is not",
                operator.task()
            )));
        }
        let (y, seen) = (self.y(), self.measured(z)?);
        let (one, none) = (self.constant(1.0), self.constant(0.0));
        let mut r = self.graph.one(Add { scale: -1.0 }, "prox.residual", &[y, seen])?;
        let mut u = self.combine("prox.zero", &[(none, r)])?;
        let mut gamma = self.graph.one(InnerProduct, "prox.gamma", &[r, r])?;
        let mut p = r;
        for k in 1..=iterations {
            // q = (A A^T + rho) p
            let back = adjoint(&mut self.graph, seen, p, z)?;
            let forth = self.measured(back)?;
            let q = self.combine("prox.q", &[(one, forth), (rho, p)])?;
            let curvature = self.graph.one(InnerProduct, "prox.curvature", &[p, q])?;
            u = self.graph.one(RatioStep { sign: 1.0 }, "prox.u", &[u, p, gamma, curvature])?;
            if k < iterations {
                r = self.graph.one(RatioStep { sign: -1.0 }, "prox.r", &[r, q, gamma, curvature])?;
                let next = self.graph.one(InnerProduct, "prox.gamma", &[r, r])?;
                p = self.graph.one(RatioStep { sign: 1.0 }, "prox.p", &[r, p, next, gamma])?;
                gamma = next;
            }
        }
        adjoint(&mut self.graph, seen, u, z)
    }
}
