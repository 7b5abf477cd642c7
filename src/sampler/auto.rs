//! The rule behind `--method auto`: which method, with which options and levels. README, "Results",
//! has the measurements that it is drawn from.

use super::measurement::Noise;
use super::method::{Answer, Method};
use super::methods::Dpir;
use super::settings::Settings;
use crate::error::Result;
use crate::model::Model;
use crate::operator::{Operator, Transform};
use crate::tensor::Shape;
use std::sync::Arc;

/// Network passes that one best image takes if there is no budget.
const USUAL_PASSES: usize = 32;
/// From this noise on, in [0, 1] units, other settings restore more.
const STRONG_NOISE: f64 = 0.05;

impl Settings {
    /// Settings for the best method for this kind of answer, model, operator and noise, within a
    /// number of network passes if one is given. One best image is restored by proximal steps, which
    /// restore more and need no VJP. Samples are drawn by DDRM if no pixels are missing, and else by
    /// DMAP. Latent models and operators that are not linear allow only DMAP; a conditional score
    /// estimator is used by DMAP and DPS.
    pub fn auto(
        answer: Answer,
        model: &Model,
        operator: &dyn Operator,
        noise: Noise,
        passes: Option<usize>,
    ) -> Result<Settings> {
        let prior = model.network.prior();
        let of_row = |name: &str| Settings::parse(name, &prior);
        let within = |s: Settings| if let Some(n) = passes { s.within(n, model) } else { Ok(s) };
        let is_of_pixels = prior.latent.is_none();
        let is_conditional = model.network.condition().is_some();
        if answer == Answer::Map && is_of_pixels && !is_conditional && operator.is_linear() {
            let (method, levels) = best_image(operator, noise, passes.unwrap_or(USUAL_PASSES));
            return Ok(Settings::new(Arc::new(method), levels));
        }
        if is_of_pixels && !is_conditional && !is_mask(operator) && operator.singular_spectrum().is_some() {
            return within(of_row("ddrm")?);
        }
        // DMAP takes many passes per level. With fewer levels than usual, DPS restores more on pixels.
        let dmap = of_row("dmap")?;
        match passes {
            Some(passes) if is_of_pixels && passes < dmap.passes(model)? => within(of_row("dps")?),
            _ => within(dmap),
        }
    }
}

/// DPIR with its number of levels for so many passes. The settings were tuned on eight photographs
/// and five tasks at noise 0.005, 0.025 and 0.1.
fn best_image(operator: &dyn Operator, noise: Noise, passes: usize) -> (Dpir, usize) {
    let is_strong = noise.usual_sigma() >= STRONG_NOISE;
    let usual = Dpir::default();
    let best = match (leaves_out_regions(operator), is_strong) {
        // The nearest known pixels say little about the inside of a region: it is drawn, from a
        // larger sigma and with more noise.
        (true, false) => Dpir { from: 1.0, to: 0.02, noise: 0.5, ..usual },
        (true, true) => Dpir { from: 2.0, to: 0.2, noise: 0.5, ..usual },
        // A lambda of 0.1 gains 0.05 dB in random inpainting and costs `denoise` 1.8 dB.
        (false, false) => Dpir { from: 0.5, to: 0.02, noise: 0.25, ..usual },
        (false, true) => Dpir { from: 0.7, to: 0.02, noise: 0.5, ..usual },
    };
    // Regions need levels; elsewhere views gain more once there are 16 levels.
    let views = match passes {
        ..32 => 1,
        _ if leaves_out_regions(operator) => 1,
        32..64 => 2,
        64.. => 4,
    };
    let levels = (passes / views).clamp(1, best.most_levels().unwrap_or(usize::MAX));
    (for_levels(Dpir { views, ..best }, levels), levels)
}

/// The same with sigmas that so few levels can step through: from one level to the next sigma at
/// most halves, and a single level starts at 0.1. Larger steps restore less than the baseline.
fn for_levels(best: Dpir, levels: usize) -> Dpir {
    let rounded = |sigma: f64| (sigma * 1e3).round() / 1e3;
    let reach = 2f64.powi(levels.min(32) as i32 - 1);
    let from = rounded(best.from.min(0.1 * reach));
    let to = rounded(best.to.max(from / reach).min(from / 2.0));
    Dpir { from, to, ..best }
}

/// True for operators that leave pixels out: they are diagonal in pixels, by a state.
fn is_mask(operator: &dyn Operator) -> bool {
    let has_state = operator.state_shape(Shape::new(1, 64, 64, 3)).is_some();
    has_state && operator.spectrum().is_some_and(|s| s.transform() == Transform::Pixels)
}

/// True for masks that leave out whole regions: all but those of single pixels drawn at random.
fn leaves_out_regions(operator: &dyn Operator) -> bool {
    is_mask(operator) && !operator.task().starts_with("inpaint-random")
}
