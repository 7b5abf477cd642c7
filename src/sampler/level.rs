//! The numbers of one step of a sampler.

/// Step `index` of `count`, from noise level t to t - 1, in VP coordinates: x_t = sqrt(abar_t)
/// x_0 + sqrt(1 - abar_t) eps.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    /// Number of steps that follow this one. It is 0 at the last step, which gives the clean image.
    pub index: usize,
    /// Total number of steps.
    pub count: usize,
    /// The timestep that the network receives.
    pub timestep: f64,
    /// abar_t: product of (1 - beta) up to this level.
    pub alpha_bar: f64,
    /// abar_{t-1}; 1 at the last step.
    pub alpha_bar_before: f64,
    /// beta_t of the respaced chain.
    pub beta: f64,
    /// x0 = clean_x x + clean_output output (Tweedie's formula), where `output` is the network's
    /// prediction.
    pub clean_x: f64,
    /// See [`Level::clean_x`].
    pub clean_output: f64,
    /// Mean of p(x_{t-1} | x_t) = mean_x0 x0 + mean_x x.
    pub mean_x0: f64,
    /// See [`Level::mean_x0`].
    pub mean_x: f64,
    /// Standard deviation of p(x_{t-1} | x_t); 0 at the last step.
    pub posterior_sigma: f64,
    /// Radius of the sphere on which p(x_{t-1} | x_t) concentrates: sqrt(numel) times its standard
    /// deviation.
    pub radius: f64,
    /// log beta_t
    pub log_beta: f64,
    /// log beta~_t, the log of the posterior variance. At the last step, where beta~ is 0, the
    /// value of the second to last step.
    pub log_beta_tilde: f64,
}

impl Level {
    /// True at the last step, which gives the clean image.
    pub fn is_last(&self) -> bool {
        self.index == 0
    }

    /// sigma = sqrt((1 - abar) / abar) of the level in VE coordinates.
    pub fn sigma(&self) -> f64 {
        ((1.0 - self.alpha_bar) / self.alpha_bar).sqrt()
    }
}

/// The point of a run at which a graph runs. Values of a [`Scalar`](super::step::Scalar) are
/// computed from it.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The level of the current step.
    pub level: Level,
    /// The level at which the network is evaluated. It is `level` unless the method asks for
    /// another one.
    pub at: Level,
    /// Number of earlier runs of the same graph at this step.
    pub round: usize,
    /// Number of earlier runs of the same graph at all steps of the chain.
    pub earlier: usize,
}
