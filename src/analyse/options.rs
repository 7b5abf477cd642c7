//! How much an analysis computes.

use crate::error::{Error, Result};

/// How much an analysis computes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Step sizes of DPS whose scores are compared: factors of the gradient of || A(x0) - y || in a
    /// chain of 1000 levels.
    pub zetas: Vec<f64>,
    /// Signals, each with a measurement of its own; over a network, trajectories. At least 2.
    pub signals: u32,
    /// Samples of each method per signal, or of x_t per noise level. At least 2.
    pub samples: u32,
    /// Noise levels of a chain.
    pub levels: usize,
    /// Noise levels at which scores are compared.
    pub points: usize,
    /// True if samples of DMAP are compared too.
    pub with_dmap: bool,
    /// Ascent steps of DMAP per level.
    pub k: usize,
    /// The step size of DPS chains; none takes the best of a search.
    pub dps_zeta: Option<f64>,
    /// The step size of DMAP chains; none takes the best of a search.
    pub dmap_zeta: Option<f64>,
}

/// What is analysed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Distance of scores from the posterior score.
    ScoreError,
    /// Mean of scores over p(x_t | y).
    ScoreMean,
    /// Spread of samples.
    Diversity,
    /// Coverage and mean of samples.
    Calibration,
}

impl Finding {
    /// All, in order.
    pub const ALL: [Finding; 4] = [Finding::ScoreError, Finding::ScoreMean, Finding::Diversity, Finding::Calibration];

    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Finding::ScoreError => "score-error",
            Finding::ScoreMean => "score-mean",
            Finding::Diversity => "diversity",
            Finding::Calibration => "calibration",
        }
    }
}

impl Options {
    /// Options with which an analysis of a built-in prior takes about a minute on one core.
    /// `is_sampled` is true for a prior whose denoiser is a Markov chain.
    pub fn usual(finding: Finding, is_sampled: bool) -> Options {
        let choose = |formula, sampled| if is_sampled { sampled } else { formula };
        let (signals, samples) = match finding {
            Finding::ScoreError => (choose(32, 8), 2),
            Finding::ScoreMean => (2, choose(400, 200)),
            Finding::Diversity => (choose(12, 6), choose(24, 12)),
            Finding::Calibration => (choose(100, 24), choose(20, 16)),
        };
        let zetas = match finding {
            Finding::ScoreMean => vec![0.3, 1.2, 4.8],
            _ => vec![0.01, 0.05, 0.3, 1.2, 4.8],
        };
        let points = if finding == Finding::ScoreMean { 5 } else { 25 };
        let levels = if is_sampled { 40 } else { 200 };
        // The coverage of a sampled prior's DMAP would take several minutes more.
        let with_dmap = !(is_sampled && finding == Finding::Calibration);
        Options { zetas, signals, samples, levels, points, with_dmap, k: 3, dps_zeta: None, dmap_zeta: None }
    }

    /// Options for the analysis of a network: few trajectories, each of few levels.
    pub fn of_network(finding: Finding) -> Options {
        let (signals, samples) = if finding == Finding::ScoreMean { (2, 32) } else { (4, 8) };
        let levels = if finding == Finding::ScoreError { 50 } else { 20 };
        Options { signals, samples, levels, ..Options::usual(finding, false) }
    }

    /// Fails if a number is outside its range.
    pub fn check(&self, finding: Finding) -> Result<()> {
        let least = |name: &str, value: usize, least: usize| match value >= least {
            true => Ok(()),
            false => Err(Error::Invalid(format!("--{name} {value}: {} needs at least {least}", finding.name()))),
        };
        if finding != Finding::ScoreMean {
            least("signals", self.signals as usize, 2)?;
        }
        if finding != Finding::ScoreError {
            least("samples", self.samples as usize, 2)?;
        }
        least("points", self.points, 2)?;
        least("k", self.k, 1)?;
        if !(2..=1000).contains(&self.levels) || self.points > 1000 {
            let (levels, points) = (self.levels, self.points);
            return Err(Error::Invalid(format!(
                "--levels {levels}, --points {points}: training has 1000 noise levels; take 2 to 1000"
            )));
        }
        let all = self.zetas.iter().chain(&self.dps_zeta).chain(&self.dmap_zeta);
        match all.copied().find(|z| !(*z > 0.0 && z.is_finite())) {
            Some(zeta) => Err(Error::Invalid(format!("a step size of {zeta}: it has to be above 0"))),
            None if self.zetas.is_empty() => Err(Error::Invalid("--zeta: give at least one step size".into())),
            None => Ok(()),
        }
    }
}
