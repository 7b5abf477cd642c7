//! The analyses of DPS on priors whose posterior is known: the priors against formulas, integrals
//! and finite differences, the findings, and the program.

mod findings;
mod network;
mod posteriors;
mod program;

use dmap::noise::{Draw, NoiseKey, Stream};

/// Random numbers of this number.
fn stream(image: u32) -> Stream {
    Stream::new(NoiseKey { seed: 5, image, step: 0, draw: Draw::Analysis })
}
