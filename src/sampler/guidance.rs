//! The rule by which a step follows the gradient of the residual norm.

use super::whitening::spectrum;
use crate::error::{Error, Result};
use crate::operator::Operator;
use crate::options::Options;
use std::fmt;

/// The length of a step against the gradient g of the residual norm.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub enum StepRule {
    /// `polyak:SHARE`: Polyak's step, which aims at the norm of the noise. It is at most SHARE
    /// times the radius sqrt(numel) * s of the sphere on which p(x_{t-1} | x_t), of standard
    /// deviation s, concentrates.
    Polyak(f64),
    /// `published:ZETA`: the step is `ZETA g`, as in the papers: in VP coordinates for DPS in pixel
    /// space, in sigma space for DMAP and for latent models.
    Published(f64),
}

impl StepRule {
    /// `polyak:0.4` or `published:80`.
    fn parse(text: &str) -> Option<StepRule> {
        let (rule, number) = text.split_once(':')?;
        let number = number.parse::<f64>().ok().filter(|z| z.is_finite() && *z >= 0.0)?;
        match rule {
            "polyak" => Some(StepRule::Polyak(number)),
            "published" => Some(StepRule::Published(number)),
            _ => None,
        }
    }
}

impl fmt::Display for StepRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepRule::Polyak(share) => write!(f, "polyak:{share}"),
            StepRule::Published(zeta) => write!(f, "published:{zeta}"),
        }
    }
}

/// The residual whose gradient is followed, and the length of a step. Most methods have these
/// options.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Guidance {
    /// Length of a step.
    pub step: StepRule,
    /// Prior standard deviation of pixel values in [-1, 1] for the [whitened](super::whitening)
    /// residual of operators with a spectrum in the cosine transform, as blurs have. 0 uses the
    /// plain norm. None means [`WHITEN`] with Polyak's step, and the plain norm with published
    /// steps, as in the papers.
    pub whiten: Option<f64>,
}

/// Default of [`Guidance::whiten`]: prior standard deviation of pixel values in [-1, 1]. From 0.15
/// to 0.4 the benchmark changes by 0.1 dB. Above 0.5 the few steps per noise level no longer
/// converge.
pub const WHITEN: f64 = 0.3;

impl Guidance {
    /// A step by `rule` with the usual residual.
    pub const fn new(step: StepRule) -> Guidance {
        Guidance { step, whiten: None }
    }

    /// The plain residual norm.
    pub const PLAIN: Guidance = Guidance { step: StepRule::Polyak(0.0), whiten: Some(0.0) };

    /// Takes the options `step` and `whiten`.
    pub fn parse(options: &mut Options, default: StepRule) -> Result<Guidance> {
        let step = match options.text("step") {
            None => default,
            Some(text) => StepRule::parse(&text).ok_or_else(|| {
                options.error(&format!(
                    "step is {text}, expected polyak:SHARE or published:ZETA with a number of 0 or more"
                ))
            })?,
        };
        Ok(Guidance { step, whiten: parse_whiten(options)? })
    }

    /// The prior standard deviation that whitens the residual of `operator`; none for the plain
    /// norm.
    pub fn whitening(&self, operator: &dyn Operator) -> Option<f64> {
        let is_polyak = matches!(self.step, StepRule::Polyak(_));
        let whiten = self.whiten.unwrap_or(WHITEN);
        (is_polyak && whiten > 0.0 && spectrum(operator).is_some()).then_some(whiten)
    }

    /// Fails on values that can't work, and on a `whiten` that would be ignored.
    pub fn check(&self, operator: &dyn Operator) -> Result<()> {
        let (StepRule::Polyak(size) | StepRule::Published(size)) = self.step;
        if !size.is_finite() || size < 0.0 {
            return Err(Error::Invalid(format!("step is {}; its number must be 0 or more", self.step)));
        }
        let Some(whiten) = self.whiten.filter(|&w| w != 0.0) else { return Ok(()) };
        if !whiten.is_finite() || whiten < 0.0 {
            return Err(Error::Invalid(format!("whiten is {whiten}; it must be 0 (off) or more")));
        }
        if matches!(self.step, StepRule::Published(_)) {
            return Err(Error::Invalid("whiten needs step=polyak:SHARE: a published step takes the plain norm".into()));
        }
        match spectrum(operator) {
            Some(_) => Ok(()),
            None => Err(Error::Invalid(format!(
                "whiten is for blurs (operators with a spectrum in the cosine transform); {} is none: leave it out",
                operator.task()
            ))),
        }
    }

    /// Advice to the user if the values of a run diverge.
    pub fn advice(&self) -> Option<&'static str> {
        matches!(self.step, StepRule::Published(_)).then_some("choose a smaller step")
    }
}

/// Takes the option `whiten`.
pub(super) fn parse_whiten(options: &mut Options) -> Result<Option<f64>> {
    options.number_if_given("whiten", 0.0..=100.0)
}

/// As it is typed.
impl fmt::Display for Guidance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step={}", self.step)?;
        match self.whiten {
            Some(whiten) => write!(f, ",whiten={whiten}"),
            None => Ok(()),
        }
    }
}
