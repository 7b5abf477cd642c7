//! `dmap analyse`: the three findings about DPS, on priors whose posterior is known and on
//! networks.

use super::device::DeviceFlags;
use super::prior_flags::warn;
use super::{interrupted, make_folder, quantity};
use crate::analyse::network::{self, NetworkProblem};
use crate::analyse::report::Row;
use crate::analyse::work::Watch;
use crate::analyse::{
    EXACT_PRIORS, Finding, Options, Problem, Report, analyse, problem::exact_prior, problem::unknown_prior,
    score_error, score_mean,
};
use crate::error::{Error, Result, shown};
use crate::image::{Photo, ReadOptions};
use crate::model::{Model, PHOTO, TINY_LATENT};
use crate::operator::{Operator, parse_task};
use crate::report::{analysis_page, check_place, write_page};
use crate::sampler::{Measurement, Noise};
use crate::tensor::Shape;
use clap::ValueEnum;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  dmap analyse score-error --prior mixture --operator convolution --out findings
  dmap analyse calibration --prior laplace --json
  dmap analyse diversity --prior photo --photo a.png --operator sr4 --cse photo --out findings

Priors with a known posterior: gaussian, mixture, gauss, laplace, student:NU, bernoulli-laplace (64 \
values), seen through identity, convolution, sample or fourier.";

/// Time between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(15);

/// Flags of `dmap analyse`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Analyse {
    /// score-error: distance of scores from the posterior score; score-mean: their mean, which is
    /// zero for a conditional score; diversity: standard deviation of samples; calibration:
    /// coverage of the truth and the error of the samples' mean
    #[arg(value_enum)]
    finding: FindingFlag,
    /// A prior whose posterior is known (listed below), or a network: `photo`, `tiny-latent`, a
    /// weight file or a folder
    #[arg(long, default_value = "gaussian", help_heading = "Problem")]
    prior: String,
    /// identity, convolution, sample or fourier; for a network a task such as sr4 [default:
    /// identity, for a network sr4]
    #[arg(long, help_heading = "Problem")]
    operator: Option<String>,
    /// Level of the signals over the noise in dB, for a prior with a known posterior [default: 25]
    #[arg(long, allow_negative_numbers = true, value_name = "DB", help_heading = "Problem")]
    snr: Option<f64>,
    /// The photo that is measured, for a network
    #[arg(long, value_name = "FILE", help_heading = "Problem")]
    photo: Option<PathBuf>,
    /// Take the centre of the photo: S or WxH pixels [default: 64]
    #[arg(long, value_name = "S|WxH", requires = "photo", help_heading = "Problem")]
    size: Option<String>,
    /// Noise of the photo's measurement, as of `dmap restore` [default: 0.025]
    #[arg(long, value_name = "SIGMA|poisson:RATE", requires = "photo", help_heading = "Problem")]
    noise: Option<String>,
    /// Signals, each with its own measurement; of a network's score-error, trajectories
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000), help_heading = "Sampling")]
    signals: Option<u32>,
    /// Samples per signal and method; in score-mean samples of x_t
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000), help_heading = "Sampling")]
    samples: Option<u32>,
    /// Noise levels of chains
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    levels: Option<usize>,
    /// Noise levels at which scores are compared
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    points: Option<usize>,
    /// Step sizes of DPS in score-error and score-mean: factors of the gradient of ||A(x0) - y|| in
    /// a chain of 1000 levels
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "ZETA,..",
        value_delimiter = ',',
        help_heading = "Sampling"
    )]
    zeta: Vec<f64>,
    /// Step size of DPS's chains in diversity and calibration [default: the best of a search]
    #[arg(long, allow_negative_numbers = true, value_name = "ZETA", help_heading = "Sampling")]
    dps_zeta: Option<f64>,
    /// Step size of DMAP's chains, in sigma space [default: the best of a search; calibration of a
    /// prior without formulas leaves DMAP out]
    #[arg(long, allow_negative_numbers = true, value_name = "ZETA", help_heading = "Sampling")]
    dmap_zeta: Option<f64>,
    /// Leave DMAP out of diversity and calibration
    #[arg(long, conflicts_with = "dmap_zeta", help_heading = "Sampling")]
    no_dmap: bool,
    /// Ascent steps of DMAP per level
    #[arg(long, default_value_t = 3, help_heading = "Sampling")]
    k: usize,
    /// Sweeps of the Markov chain behind each evaluation of a denoiser, where it has no formula
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(10..=100_000), help_heading = "Sampling")]
    sweeps: u32,
    /// Methods whose samples are compared, for a network; may be repeated [default: dps and dmap]
    #[arg(long, value_name = "METHOD", help_heading = "Sampling")]
    method: Vec<String>,
    /// Seed of everything that is drawn
    #[arg(long, default_value_t = 0, help_heading = "Sampling")]
    seed: u64,
    /// Conditional score estimator that is measured, for a network: a file or folder; `photo` is
    /// the one inside the program for the task
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    cse: Option<PathBuf>,
    /// A conditional model that stands for the posterior in score-error of a network
    #[arg(long, value_name = "PATH", conflicts_with = "reference_cse", help_heading = "Model")]
    reference: Option<String>,
    /// A conditional score estimator of the prior that stands for the posterior
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    reference_cse: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceFlags,
    /// Folder for FINDING-PRIOR-OPERATOR.json, .csv and .svg
    #[arg(long, value_name = "FOLDER", help_heading = "Output")]
    out: Option<PathBuf>,
    /// Write a page about the analysis
    #[arg(long, value_name = "FILE.html", help_heading = "Output")]
    report: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum FindingFlag {
    ScoreError,
    ScoreMean,
    Diversity,
    Calibration,
}

impl FindingFlag {
    fn finding(self) -> Finding {
        match self {
            FindingFlag::ScoreError => Finding::ScoreError,
            FindingFlag::ScoreMean => Finding::ScoreMean,
            FindingFlag::Diversity => Finding::Diversity,
            FindingFlag::Calibration => Finding::Calibration,
        }
    }
}

pub(super) fn run(flags: Analyse) -> anyhow::Result<ExitCode> {
    // A wrong folder is told before the work, a new one is made after it.
    if let Some(out) = flags.out.as_ref().filter(|out| out.exists()) {
        make_folder(out)?;
    }
    if let Some(page) = &flags.report {
        check_place(page)?;
    }
    let last = Mutex::new(Instant::now());
    interrupted();
    let watch = |done: usize, count: usize| {
        let mut last = last.lock().unwrap_or_else(|e| e.into_inner());
        if last.elapsed() > PROGRESS_EVERY {
            *last = Instant::now();
            complain!("dmap: {done} of {count} parts of the work are done");
        }
        match interrupted().load(Ordering::SeqCst) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let report = match exact_prior(&flags.prior, 1, 1)? {
        Some(_) => of_exact_prior(&flags, &watch)?,
        None => of_network(&flags, &watch)?,
    };
    let write = |out: &PathBuf| make_folder(out).and_then(|()| report.write(out));
    let mut written = flags.out.as_ref().map_or(Ok(Vec::new()), write)?;
    if let Some(page) = &flags.report {
        write_page(page, &analysis_page(&report))?;
        written.push(page.clone());
    }
    match flags.json {
        true => say!("{}", report.json()?)?,
        false => {
            say!("{}", report.text())?;
            written.iter().try_for_each(|path| say!("wrote {}", shown(path)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Analyse {
    /// The usual options, with the flags that were given.
    fn options(&self, usual: Options) -> Result<Options> {
        let finding = self.finding.finding();
        match finding {
            Finding::ScoreError | Finding::ScoreMean => {
                let of_chains = [
                    ("--dps-zeta", self.dps_zeta.is_some()),
                    ("--dmap-zeta", self.dmap_zeta.is_some()),
                    ("--no-dmap", self.no_dmap),
                ];
                Analyse::refuse(&of_chains, "is for diversity and calibration")?;
            }
            Finding::Diversity | Finding::Calibration => {
                let of_scores = [("--zeta", !self.zeta.is_empty()), ("--points", self.points.is_some())];
                Analyse::refuse(&of_scores, "is for score-error and score-mean")?;
            }
        }
        let options = Options {
            zetas: if self.zeta.is_empty() { usual.zetas } else { self.zeta.clone() },
            signals: self.signals.unwrap_or(usual.signals),
            samples: self.samples.unwrap_or(usual.samples),
            levels: self.levels.unwrap_or(usual.levels),
            points: self.points.unwrap_or(usual.points),
            with_dmap: self.dmap_zeta.is_some() || (usual.with_dmap && !self.no_dmap),
            k: self.k,
            dps_zeta: self.dps_zeta,
            dmap_zeta: self.dmap_zeta,
        };
        options.check(finding)?;
        Ok(options)
    }

    /// Fails with the first of these flags that was given. `because` says why it has no place.
    fn refuse(given: &[(&str, bool)], because: &str) -> Result<()> {
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((flag, _)) => Err(Error::Invalid(format!("{flag} {because}; leave it out"))),
            None => Ok(()),
        }
    }
}

fn of_exact_prior(flags: &Analyse, watch: Watch<'_>) -> Result<Report> {
    let of_networks = [
        ("--photo", flags.photo.is_some()),
        ("--cse", flags.cse.is_some()),
        ("--reference", flags.reference.is_some()),
        ("--reference-cse", flags.reference_cse.is_some()),
        ("--method", !flags.method.is_empty()),
    ];
    Analyse::refuse(&of_networks, &format!("is for networks; the posterior of the prior {} is known", flags.prior))?;
    let finding = flags.finding.finding();
    let operator = flags.operator.as_deref().unwrap_or("identity");
    let problem = Problem::new(&flags.prior, operator, flags.snr.unwrap_or(25.0), flags.sweeps as usize, flags.seed)?;
    let options = flags.options(Options::usual(finding, problem.prior.is_sampled()))?;
    analyse(&problem, finding, &options, watch)
}

/// The prior with the estimator at `path`; `photo` is the one inside the program.
fn with_estimator(model: Model, path: &Path, operator: &dyn Operator) -> Result<Model> {
    match path == Path::new(PHOTO) && !path.exists() {
        true => model.with_shipped_control(&operator.task(), 1.0),
        false => model.with_control(path, 1.0),
    }
}

fn of_network(flags: &Analyse, watch: Watch<'_>) -> Result<Report> {
    let inside = [PHOTO, TINY_LATENT];
    if !inside.contains(&flags.prior.as_str()) && !Path::new(&flags.prior).exists() {
        return Err(unknown_prior(&flags.prior, &inside));
    }
    let finding = flags.finding.finding();
    if finding == Finding::Calibration {
        let names = EXACT_PRIORS.map(|p| p.0).join(", ");
        return Err(Error::Invalid(format!(
            "calibration needs a prior whose posterior is known, and {} is a network; take one of {names}",
            flags.prior
        )));
    }
    let why = "is for priors with a known posterior";
    let of_exact = [
        ("--snr", flags.snr.is_some()),
        ("--dps-zeta", flags.dps_zeta.is_some()),
        ("--dmap-zeta", flags.dmap_zeta.is_some()),
        ("--no-dmap", flags.no_dmap),
    ];
    Analyse::refuse(&of_exact, why)?;
    let options = flags.options(Options::of_network(finding))?;
    let operator = parse_task(flags.operator.as_deref().unwrap_or("sr4"))?;
    let Some(photo) = &flags.photo else {
        return Err(Error::Invalid(format!("--photo is missing: the prior {} measures a photo", flags.prior)));
    };
    let noise = flags.noise.as_deref().map_or(Ok(Noise::default()), str::parse);
    let noise = noise.map_err(|e| Error::Invalid(format!("--{e}")))?;
    let size = quantity::size(flags.size.as_deref().unwrap_or("64"))?;
    let picture = Photo::read_with(photo, &ReadOptions::default().crop(size))?.picture;
    let image = Shape::new(1, picture.height, picture.width, 3);
    let open = || Model::open_or_shipped(&flags.prior);
    let model = open()?;
    warn(&model);
    let estimator = |path: &PathBuf| with_estimator(open()?, path, operator.as_ref());
    let cse = flags.cse.as_ref().map(estimator).transpose()?;
    let reference = match (&flags.reference, &flags.reference_cse) {
        (Some(name), _) => Some(Model::open_or_shipped(name)?),
        (None, path) => path.as_ref().map(estimator).transpose()?,
    };
    let (measurement, _) = Measurement::simulate(operator.as_ref(), image, &picture.values, noise, flags.seed)?;
    let device = flags.device.open()?;
    let problem = NetworkProblem {
        model: &model,
        reference: reference.as_ref(),
        cse: cse.as_ref(),
        operator: &operator,
        measurement: &measurement,
        image,
        seed: flags.seed,
        plan: flags.device.plan()?,
        device: &device,
    };
    let name = |m: &Option<Model>| m.as_ref().map(|m| m.name.clone());
    let settings = Row::default()
        .with("photo", photo.file_name().map(|n| n.to_string_lossy().into_owned()))
        .with("size", [picture.width, picture.height])
        .with("noise", noise.to_string())
        .with("cse", name(&cse))
        .with("reference", name(&reference))
        .with("seed", flags.seed);
    let (prior, task) = (model.name.clone(), operator.task());
    let of_scores = |row: Row| row.with("zetas", &options.zetas).with("levels", options.levels);
    match finding {
        Finding::ScoreError => {
            let found = network::score_error::distances(&problem, &options, watch)?;
            let settings = of_scores(settings).with("trajectories", options.signals);
            Ok(score_error::report(&found, prior, task, settings))
        }
        Finding::ScoreMean => {
            let found = network::score_mean::scores(&problem, &options, watch)?;
            let settings = of_scores(settings).with("samples", options.samples);
            Ok(score_mean::report(&found, "x_t, of chains driven by the score itself", prior, task, settings))
        }
        _ => {
            let usual = ["dps".to_string(), "dmap".to_string()];
            let methods = if flags.method.is_empty() { &usual[..] } else { &flags.method[..] };
            let settings = settings.with("samples", options.samples);
            network::diversity::report(&problem, &options, methods, flags.levels, settings, watch)
        }
    }
}
