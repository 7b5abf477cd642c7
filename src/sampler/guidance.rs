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
    /// `adam:RATE` or `adam:RATE:B1:B2`: Adam's moments of the gradient, which are kept from step
    /// to step, set direction and length (AdamDPS). If B1^2 is at most B2, RATE is about the largest
    /// change of a pixel value in [-1, 1] per step.
    Adam {
        /// Learning rate.
        rate: f64,
        /// Decay of the moments per step.
        betas: [f64; 2],
    },
}

/// Decay of the moments in `adam:RATE`: in the middle of what tuning gave for AdamDPS.
const BETAS: [f64; 2] = [0.5, 0.6];

impl StepRule {
    /// `polyak:0.4`, `published:80`, `adam:0.03` or `adam:0.03:0.5:0.6`.
    fn parse(text: &str) -> Option<StepRule> {
        let (rule, numbers) = text.split_once(':')?;
        let numbers = numbers.split(':').map(|n| n.parse().ok()).collect::<Option<Vec<f64>>>()?;
        let rule = match (rule, &numbers[..]) {
            ("polyak", &[share]) => StepRule::Polyak(share),
            ("published", &[zeta]) => StepRule::Published(zeta),
            ("adam", &[rate]) => StepRule::Adam { rate, betas: BETAS },
            ("adam", &[rate, b1, b2]) => StepRule::Adam { rate, betas: [b1, b2] },
            _ => return None,
        };
        rule.is_possible().then_some(rule)
    }

    /// Whether the size is 0 or more and betas are 0 to below 1.
    fn is_possible(&self) -> bool {
        let (StepRule::Polyak(size) | StepRule::Published(size) | StepRule::Adam { rate: size, .. }) = self;
        let betas = if let StepRule::Adam { betas, .. } = self { *betas } else { [0.0; 2] };
        size.is_finite() && *size >= 0.0 && betas.iter().all(|b| (0.0..1.0).contains(b))
    }
}

impl fmt::Display for StepRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepRule::Polyak(share) => write!(f, "polyak:{share}"),
            StepRule::Published(zeta) => write!(f, "published:{zeta}"),
            StepRule::Adam { rate, betas: [b1, b2] } => write!(f, "adam:{rate}:{b1}:{b2}"),
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
    /// plain norm. None means [`WHITEN`], and the plain norm with published steps, as in the
    /// papers.
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
                    "step is {text}, expected polyak:SHARE, published:ZETA or adam:RATE with a number of 0 or more, or \
                     adam:RATE:B1:B2 with B1 and B2 below 1"
                ))
            })?,
        };
        Ok(Guidance { step, whiten: parse_whiten(options)? })
    }

    /// The prior standard deviation that whitens the residual of `operator`; none for the plain
    /// norm.
    pub fn whitening(&self, operator: &dyn Operator) -> Option<f64> {
        let may_whiten = !matches!(self.step, StepRule::Published(_));
        let whiten = self.whiten.unwrap_or(WHITEN);
        (may_whiten && whiten > 0.0 && spectrum(operator).is_some()).then_some(whiten)
    }

    /// Fails on values that can't work, and on a `whiten` that would be ignored.
    pub fn check(&self, operator: &dyn Operator) -> Result<()> {
        if !self.step.is_possible() {
            return Err(Error::Invalid(format!("step is {}; its number must be 0 or more", self.step)));
        }
        let Some(whiten) = self.whiten.filter(|&w| w != 0.0) else { return Ok(()) };
        if !whiten.is_finite() || whiten < 0.0 {
            return Err(Error::Invalid(format!("whiten is {whiten}; it must be 0 (off) or more")));
        }
        if matches!(self.step, StepRule::Published(_)) {
            return Err(Error::Invalid(
                "whiten needs step=polyak:SHARE or adam:RATE: a published step takes the plain norm".into(),
            ));
        }
        match spectrum(operator) {
            Some(_) => Ok(()),
            None => Err(Error::Invalid(format!(
                "whiten is for blurs (operators with a spectrum over frequencies); {} is none: leave it out",
                operator.task()
            ))),
        }
    }

    /// Advice to the user if the values of a run diverge.
    pub fn advice(&self) -> Option<&'static str> {
        (!matches!(self.step, StepRule::Polyak(_))).then_some("choose a smaller step")
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
