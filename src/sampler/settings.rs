//! What a sampler can be told.

use super::schedule::{Spacing, Variance};

/// How far a step goes along the gradient g of the residual norm.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Zeta {
    /// Towards the noise's norm by Polyak's step, at most `zeta radius` far: a share of the radius sqrt(numel) * s of the
    /// sphere that p(x_{t-1} | x_t) lives on.
    Relative(f64),
    /// `zeta g`, as published: in VP coordinates for DPS in pixel space, in sigma space for DMAP and for latent models.
    Absolute(f64),
}

/// What a sampler can be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The method.
    pub method: Method,
    /// Noise levels visited.
    pub steps: usize,
    /// Step size along the gradient.
    pub zeta: Zeta,
    /// Prior standard deviation of pixel values in [-1, 1] for the [whitened](super::whitening) residual of blurs. 0 uses the
    /// plain norm. Ignored with an absolute step size, which follows the papers.
    pub whiten: f64,
    /// K: ascent steps per noise level of DMAP, samples of the estimate of LGD, passes at a
    /// repeated level of FreeDoM, descents per level of STSL, optimisation steps of ReSample at most, moves of the text of P2L.
    pub inner: usize,
    /// Weight of the second term of PSLD's and STSL's objectives.
    pub consistency: f64,
    /// Rate of the optimisation in ReSample (of codes, per step) and P2L (of the text).
    pub rate: f64,
    /// PSLD's adjoint is what the published code has in its place.
    pub published_transpose: bool,
    /// Variance of the ancestral step.
    pub variance: Variance,
    /// Which noise levels are visited.
    pub spacing: Spacing,
    /// Share of the posterior's noise that a step adds: 1 is ancestral sampling, 0 DDIM.
    pub eta: f64,
    /// Limit x0 to [-1, 1]; the gradient is 0 where it is limited. Of pixel models only.
    pub clip: bool,
}

/// A method of sampling.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Diffusion posterior sampling (Chung et al. 2023).
    Dps,
    /// Explicit posterior ascent on a sphere (Xu et al. 2025).
    Dmap,
    /// Steps turned towards the steepest descent on a sphere (Yang et al. 2024).
    Dsg,
    /// DPS on Monte Carlo samples of x_0 (Song et al. 2023).
    Lgd,
    /// DPS with time travel (Yu et al. 2023).
    Freedom,
    /// DPS whose codes agree with decoder and encoder (Rout et al. 2023).
    Psld,
    /// Descents of residual and score's trace before every step (Rout et al. 2024).
    Stsl,
    /// DPS with optimised codes (Song et al. 2024).
    Resample,
    /// DPS with a tuned text (Chung et al. 2024).
    P2l,
    /// The prior alone.
    Unconditional,
}

/// A part of [`Settings`] that not every method reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Setting {
    /// [`Settings::zeta`]
    Zeta,
    /// [`Settings::whiten`]
    Whiten,
    /// [`Settings::inner`]
    Inner,
    /// [`Settings::rate`]
    Rate,
    /// [`Settings::consistency`]
    Consistency,
    /// [`Settings::published_transpose`]
    PublishedTranspose,
}

/// From 0.15 to 0.4 the benchmark changes by 0.1 dB; beyond 0.5 the few steps of a level no longer come to their end.
pub const WHITEN: f64 = 0.3;
