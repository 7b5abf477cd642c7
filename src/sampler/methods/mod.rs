//! All methods: one file each, one row each.

mod cse;
mod daps;
mod ddnm;
mod ddrm;
mod diffpir;
mod dmap;
mod dpir;
mod dps;
mod dsg;
mod freedom;
mod lgd;
mod p2l;
mod pigdm;
mod psld;
mod reddiff;
mod resample;
mod sitcom;
mod stsl;
mod unconditional;

pub use cse::Cse;
pub use daps::Daps;
pub use ddnm::Ddnm;
pub use ddrm::Ddrm;
pub use diffpir::Diffpir;
pub use dmap::Dmap;
pub use dpir::Dpir;
pub use dps::Dps;
pub use dsg::Dsg;
pub use freedom::Freedom;
pub use lgd::Lgd;
pub use p2l::P2l;
pub use pigdm::Pigdm;
pub use psld::Psld;
pub use reddiff::RedDiff;
pub use resample::Resample;
pub use sitcom::Sitcom;
pub use stsl::Stsl;
pub use unconditional::Unconditional;

use super::method::Method;
use crate::error::{Error, Result, nearest};
use crate::options::Options;
use std::sync::Arc;

/// One row per method.
pub struct MethodRow {
    /// Name on the command line.
    pub name: &'static str,
    /// Short description.
    pub about: &'static str,
    /// Its options with their defaults, as they are typed.
    pub options: &'static str,
    /// What `dmap tune` searches: options with the values that it tries, in order. The default is
    /// one of them.
    pub search: &'static [(&'static str, &'static [&'static str])],
    /// Number of noise levels that the method was tuned with on pixel models.
    pub steps: usize,
    /// Number of noise levels that the method was tuned with on latent models.
    pub latent_steps: usize,
    parse: fn(&mut Options) -> Result<Arc<dyn Method>>,
}

const POLYAK: &[&str] = &["polyak:0.1", "polyak:0.2", "polyak:0.3", "polyak:0.4", "polyak:0.6"];
const WHITEN: &[&str] = &["0.1", "0.2", "0.3", "0.5", "1"];

/// All methods.
pub const METHODS: &[MethodRow] = &[
    MethodRow {
        name: "dmap",
        about: "explicit posterior ascent: k projected gradient steps per noise level",
        options: "k=5,step=polyak:0.4,whiten=0.3 (blurs),through=both (--cse)",
        search: &[("k", &["2", "3", "5", "8"]), ("step", POLYAK), ("whiten", WHITEN)],
        steps: 6,
        // With the six levels of pixel models, latents end far from the measurement. Ten levels
        // gain 1 dB in random inpainting and 0.3 dB in super-resolution (weights/tiny-latent).
        latent_steps: 10,
        parse: dmap::parse,
    },
    MethodRow {
        name: "dps",
        about: "diffusion posterior sampling: one gradient step per noise level",
        options: "step=polyak:0.3,whiten=0.3 (blurs),through=both (--cse)",
        search: &[("step", POLYAK), ("whiten", WHITEN)],
        steps: 28,
        latent_steps: 28,
        parse: dps::parse,
    },
    MethodRow {
        name: "dpir",
        about: "plug-and-play: proximal steps of the measurement and the model as a denoiser, in turn; linear tasks, pixel models",
        options: "lambda=0.23,from=0.384,to=0.05,noise=0,views=1,cg=8",
        search: dpir::SEARCH,
        steps: 16,
        latent_steps: 16,
        parse: dpir::parse,
    },
    MethodRow {
        name: "diffpir",
        about: "proximal steps of the measurement on the estimate of x_0, then fresh noise; linear tasks, pixel models",
        options: "lambda=1,zeta=0.1,cg=8",
        search: &[("lambda", &["0.1", "0.3", "1", "3", "7", "20"]), ("zeta", &["0.1", "0.25", "0.5", "0.75", "1"])],
        steps: 28,
        latent_steps: 28,
        parse: diffpir::parse,
    },
    MethodRow {
        name: "ddnm",
        about: "what the measurement decides is put in place, the rest is the model's; linear tasks, pixel models",
        options: "eta=0.85,cg=8",
        search: &[("eta", &["0", "0.25", "0.5", "0.7", "0.85", "1"]), ("cg", &["2", "4", "8", "16"])],
        steps: 28,
        latent_steps: 28,
        parse: ddnm::parse,
    },
    MethodRow {
        name: "ddrm",
        about: "a step along each singular vector, as the noise of the measurement allows; tasks whose singular vectors are known, pixel models",
        options: "eta=0.85,etab=1",
        search: &[("eta", &["0", "0.25", "0.5", "0.7", "0.85", "1"]), ("etab", &["0.25", "0.5", "0.75", "1"])],
        steps: 28,
        latent_steps: 28,
        parse: ddrm::parse,
    },
    MethodRow {
        name: "pigdm",
        about: "the gradient by the pseudo-inverse of the measurement; linear tasks, pixel models",
        options: "eta=0.2,cg=8",
        search: &[("eta", &["0", "0.2", "0.5", "0.85", "1"]), ("cg", &["2", "4", "8", "16"])],
        steps: 28,
        latent_steps: 28,
        parse: pigdm::parse,
    },
    MethodRow {
        name: "sitcom",
        about: "the network's input is optimised at every level until its estimate fits",
        options: "k=20,rate=0.02",
        search: &[("k", &["5", "10", "20", "40"]), ("rate", &["0.005", "0.01", "0.02", "0.05", "0.1"])],
        steps: 10,
        latent_steps: 10,
        parse: sitcom::parse,
    },
    MethodRow {
        name: "red-diff",
        about: "one image is optimised, the model's denoising of it with fresh noise is a gradient; pixel models",
        options: "rate=0.1,weight=0.25",
        search: &[("rate", &["0.02", "0.05", "0.1", "0.2"]), ("weight", &["0.02", "0.05", "0.1", "0.25", "0.5", "1"])],
        steps: 50,
        latent_steps: 50,
        parse: reddiff::parse,
    },
    MethodRow {
        name: "daps",
        about: "an ODE to a clean image, a Markov chain towards the measurement, fresh noise",
        options: "k=100,rate=0.00005,ode=5,tau=0.01,from=100,end=0.01,momentum=0",
        search: &[
            ("ode", &["1", "2", "3", "5"]),
            ("tau", &["0.005", "0.01", "0.02", "0.05", "0.1"]),
            ("rate", &["0.000005", "0.00001", "0.00002", "0.00005", "0.0001", "0.0002"]),
        ],
        steps: 50,
        latent_steps: 50,
        parse: daps::parse,
    },
    MethodRow {
        name: "dsg",
        about: "steps turned towards the steepest descent on the sphere of the noise",
        options: "share=0.2,whiten=0.3 (blurs),through=both (--cse)",
        search: &[("share", &["0.05", "0.1", "0.2", "0.4"]), ("whiten", WHITEN)],
        steps: 28,
        latent_steps: 28,
        parse: dsg::parse,
    },
    MethodRow {
        name: "lgd",
        about: "DPS on Monte Carlo samples of the clean image",
        options: "samples=3,step=polyak:0.3,whiten=0.3 (blurs)",
        search: &[("samples", &["1", "3", "5"]), ("step", POLYAK), ("whiten", WHITEN)],
        steps: 28,
        latent_steps: 28,
        parse: lgd::parse,
    },
    MethodRow {
        name: "freedom",
        about: "DPS with time travel: several passes at the levels in the middle",
        options: "passes=2,step=polyak:0.3,whiten=0.3 (blurs)",
        search: &[("passes", &["1", "2", "3"]), ("step", POLYAK), ("whiten", WHITEN)],
        steps: 20,
        latent_steps: 20,
        parse: freedom::parse,
    },
    MethodRow {
        name: "psld",
        about: "DPS whose latents agree with decoder and encoder; of latent models",
        options: "gamma=0.1,transpose=exact,step=polyak:0.3,whiten=0.3 (blurs)",
        search: &[("gamma", &["0.03", "0.1", "0.3"]), ("step", POLYAK), ("whiten", WHITEN)],
        steps: 28,
        latent_steps: 28,
        parse: psld::parse,
    },
    MethodRow {
        name: "stsl",
        about: "k descents of residual and score's trace before every ancestral step",
        options: "k=5,weight=0.1,step=polyak:0.3,whiten=0.3 (blurs)",
        search: &[
            ("k", &["2", "3", "5", "8"]),
            ("weight", &["0.03", "0.1", "0.3"]),
            ("step", POLYAK),
            ("whiten", WHITEN),
        ],
        steps: 10,
        latent_steps: 10,
        parse: stsl::parse,
    },
    MethodRow {
        name: "resample",
        about: "DPS, and at some levels latents optimised to fit the measurement",
        options: "iterations=50,rate=0.005,step=polyak:0.3,whiten=0.3 (blurs)",
        search: &[("rate", &["0.001", "0.005", "0.02"]), ("step", POLYAK), ("whiten", WHITEN)],
        steps: 28,
        latent_steps: 28,
        parse: resample::parse,
    },
    MethodRow {
        name: "p2l",
        about: "DPS with a text that is tuned to the measurement; of latent models",
        options: "k=3,rate=0.00001,step=polyak:0.3,whiten=0.3 (blurs)",
        search: &[
            ("k", &["1", "3", "5"]),
            ("rate", &["0.00001", "0.0001", "0.001"]),
            ("step", POLYAK),
            ("whiten", WHITEN),
        ],
        steps: 28,
        latent_steps: 28,
        parse: p2l::parse,
    },
    MethodRow {
        name: "cse",
        about: "ancestral sampling with the conditional score estimator that --cse gives",
        options: "from=SIGMA (all levels)",
        search: &[],
        steps: 28,
        latent_steps: 28,
        parse: cse::parse,
    },
    MethodRow {
        name: "unconditional",
        about: "samples of the prior; the measurement is not used",
        options: "",
        search: &[],
        steps: 100,
        latent_steps: 100,
        parse: unconditional::parse,
    },
];

/// Parses a method such as `dmap` or `dps:step=polyak:0.3`. Fails on an unknown option and on an
/// unknown name; the error then suggests the nearest known name.
pub fn parse_method(method: &str) -> Result<(&'static MethodRow, Arc<dyn Method>)> {
    let row = |name: &str| METHODS.iter().find(|m| m.name == name);
    let known = |name: &str| row(name).map_or("", |r| r.options).to_string();
    let (name, mut options) = Options::parse("method", method, known)?;
    let Some(row) = row(name) else {
        let names = METHODS.iter().map(|m| m.name).chain(["auto"]);
        let nearest = nearest(&name.trim().to_ascii_lowercase(), names).unwrap_or_default();
        return Err(Error::Invalid(format!("unknown method {name}: did you mean {nearest}? `dmap tasks` lists all")));
    };
    let parsed = (row.parse)(&mut options)?;
    options.finish(row.options)?;
    Ok((row, parsed))
}
