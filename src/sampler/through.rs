//! The networks through which the gradient of a guided step flows if there is a conditional score
//! estimator.

use super::method::Conditioned;
use super::step::{Estimate, Step};
use crate::error::Result;
use crate::graph::TensorId;
use crate::options::Options;
use std::fmt;

/// The networks through which the gradient of a guided step flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Through {
    /// `through=both`: the conditional score estimator, if there is one, and the prior.
    #[default]
    Both,
    /// `through=prior`: the prior alone. The step is that of eps_cse + zeta g / c, where c is the
    /// factor of eps in the posterior's mean and g is the gradient without the estimator.
    Prior,
}

impl Through {
    /// Takes the option `through`.
    pub(super) fn parse(options: &mut Options) -> Result<Through> {
        match options.text("through").as_deref() {
            None | Some("both") => Ok(Through::Both),
            Some("prior") => Ok(Through::Prior),
            Some(other) => Err(options.error(&format!("through is {other}, expected both or prior"))),
        }
    }

    /// What a method with this option says of conditional score estimators.
    pub(super) fn conditioned(self) -> Conditioned {
        match self {
            Through::Both => Conditioned::Optional,
            Through::Prior => Conditioned::Always,
        }
    }

    /// The estimate at x that the chain follows, and the one whose residual is differentiated.
    pub(super) fn estimates(self, s: &mut Step<'_>, x: TensorId) -> Result<(Estimate, Estimate)> {
        let followed = s.estimate(x)?;
        Ok((followed, if self == Through::Both { followed } else { s.estimate_of_prior(x)? }))
    }

    /// The estimate at x whose residual is differentiated.
    pub(super) fn estimate(self, s: &mut Step<'_>, x: TensorId) -> Result<Estimate> {
        match self {
            Through::Both => s.estimate(x),
            Through::Prior => s.estimate_of_prior(x),
        }
    }
}

/// As it is typed after other options; nothing for the default.
impl fmt::Display for Through {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Through::Prior { ",through=prior" } else { "" })
    }
}
