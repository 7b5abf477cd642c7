//! The command line: what was typed becomes a checked, ready-to-run job.

/// Prints a line. Where stdout can't take it, as on a full disk, this is an error and no panic.
macro_rules! say {
    ($($line:tt)*) => { crate::cli::print_line(format_args!($($line)*)) };
}

/// Prints a line to stderr, if that can take it.
macro_rules! complain {
    ($($line:tt)*) => { crate::cli::print_complaint(format_args!($($line)*)) };
}

mod bench;
mod comparison;
mod demo;
mod device;
mod eval;
mod info;
mod inputs;
mod job;
mod outputs;
mod pending;
mod plan;
mod prepare;
mod quantity;
mod queue;
mod recipe;
mod restore;
mod result;
mod selftest;

use crate::error::{Error, Result, shown};
use crate::model::Prior;
use crate::operator::Operator;
use crate::sampler::{METHODS, Method, Setting, Settings, Spacing, Variance, Zeta};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Restores images by diffusion posterior sampling.
#[derive(Parser, Debug)]
#[command(name = "dmap", version, about, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Restore a shipped photo and show where the pictures are
    Demo(demo::Demo),
    /// Degrade photos with a task and restore them, or restore measurements
    Restore(Box<restore::Restore>),
    /// Print memory, work and launches of one step, without weights or a GPU
    Plan(plan::PlanArguments),
    /// Evaluate model, residual and gradient once, from and to safetensors files
    Eval(eval::Eval),
    /// Show what a weight file is
    Info(info::Info),
    /// Check the kernels of a device against the CPU
    Selftest(selftest::Selftest),
    /// Measure a device op by op and step by step
    Bench(bench::Bench),
    /// List tasks, methods and presets
    Tasks,
}

/// Runs what was asked for.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Demo(demo) => demo::run(demo),
        Command::Restore(restore) => restore::run(*restore),
        Command::Plan(plan) => plan::run(plan),
        Command::Eval(eval) => eval::run(eval),
        Command::Info(info) => info::run(info),
        Command::Selftest(selftest) => selftest::run(selftest),
        Command::Bench(bench) => bench::run(bench),
        Command::Tasks => {
            info::list()?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Flags that set up a sampler.
#[derive(Args, Debug, Clone)]
pub(crate) struct SamplerFlags {
    /// Method: dmap, dps and others (`dmap tasks` lists all)
    #[arg(long, default_value = "dmap")]
    pub method: String,
    /// Noise levels visited [default: tuned per method and kind of model]
    #[arg(long)]
    pub steps: Option<usize>,
    /// Step size along the gradient: a share of the sphere's radius, see --zeta-unit [default: tuned per method]
    #[arg(long)]
    pub zeta: Option<f64>,
    /// Meaning of --zeta: `relative`, a share of the sphere's radius; `absolute`, a factor of the gradient itself
    #[arg(long, value_enum, requires = "zeta", default_value = "relative")]
    pub zeta_unit: ZetaUnit,
    /// Prior standard deviation of pixel values in [-1, 1] for the whitened residual of blurs; 0 uses the plain norm, as an
    /// absolute zeta always does [default: 0.3]
    #[arg(long)]
    pub whiten: Option<f64>,
    /// K: ascent steps per level of dmap, samples of lgd, passes at a repeated level of freedom, descents per level of stsl,
    /// optimisation steps of resample at most, moves of the text of p2l [default: tuned]
    #[arg(long)]
    pub inner: Option<usize>,
    /// Variance of the ancestral step
    #[arg(long, value_enum, default_value = "fixed-small")]
    pub variance: VarianceFlag,
    /// Which noise levels are visited
    #[arg(long, value_enum, default_value = "quadratic")]
    pub spacing: SpacingFlag,
    /// Share of the posterior's noise that a step adds: 1 is ancestral sampling, 0 DDIM
    #[arg(long, default_value_t = 1.0)]
    pub eta: f64,
    /// Rate of the optimisation of resample and p2l [default: 0.005, of p2l 0.00001]
    #[arg(long)]
    pub rate: Option<f64>,
    /// Weight of the second term of psld and stsl [default: 0.1]
    #[arg(long)]
    pub consistency: Option<f64>,
    /// psld: use the published code's approximation (identity for blurs, nearest pixels for super-resolution) instead of
    /// the true adjoint
    #[arg(long)]
    pub published_transpose: bool,
    /// Do not limit the estimate of the clean image to [-1, 1]
    #[arg(long)]
    pub no_clip: bool,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq)]
pub(crate) enum ZetaUnit {
    Relative,
    Absolute,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
pub(crate) enum VarianceFlag {
    FixedSmall,
    FixedLarge,
    LearnedRange,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
pub(crate) enum SpacingFlag {
    Linear,
    Quadratic,
    Linspace,
    Leading,
    Trailing,
}

impl SamplerFlags {
    /// Fails on a flag that the method would ignore.
    fn check_read(&self, method: Method) -> Result<()> {
        let given = [
            (Setting::Zeta, "zeta", self.zeta.is_some()),
            (Setting::Whiten, "whiten", self.whiten.is_some()),
            (Setting::Inner, "inner", self.inner.is_some()),
            (Setting::Rate, "rate", self.rate.is_some()),
            (Setting::Consistency, "consistency", self.consistency.is_some()),
            (Setting::PublishedTranspose, "published-transpose", self.published_transpose),
        ];
        let ignored = given.iter().find(|(setting, _, is_given)| *is_given && !method.reads(*setting));
        let Some((setting, flag, _)) = ignored else { return Ok(()) };
        let readers: Vec<&str> = METHODS.iter().filter(|m| m.reads.contains(setting)).map(|m| m.name).collect();
        let (name, readers) = (method.row().name, readers.join(", "));
        Err(Error::Invalid(format!("--{flag}: {name} does not use it ({readers} do); leave it out")))
    }

    /// The settings that these flags mean for a model and a task.
    pub fn settings(&self, prior: &Prior, operator: &dyn Operator) -> Result<Settings> {
        let method = Method::parse(&self.method)?;
        self.check_read(method)?;
        let mut settings = method.defaults_for(prior);
        settings.steps = self.steps.unwrap_or(settings.steps);
        settings.inner = self.inner.unwrap_or(settings.inner);
        settings.zeta = match (self.zeta, self.zeta_unit) {
            (None, _) => settings.zeta,
            (Some(z), ZetaUnit::Relative) => Zeta::Relative(z),
            (Some(z), ZetaUnit::Absolute) => Zeta::Absolute(z),
        };
        settings.whiten = self.whiten.unwrap_or(settings.whiten);
        if self.whiten.is_some_and(|w| w != 0.0) && matches!(settings.zeta, Zeta::Absolute(_)) {
            return Err(Error::Invalid(
                "--whiten needs a relative zeta: an absolute one takes steps as published".into(),
            ));
        }
        if self.whiten.is_some_and(|w| w != 0.0) && !operator.is_blur() {
            let reason = format!("--whiten is for blurs; {} is none: leave it out", operator.task());
            return Err(Error::Invalid(reason));
        }
        settings.variance = match self.variance {
            VarianceFlag::FixedSmall => Variance::FixedSmall,
            VarianceFlag::FixedLarge => Variance::FixedLarge,
            VarianceFlag::LearnedRange => Variance::LearnedRange,
        };
        settings.spacing = match self.spacing {
            SpacingFlag::Linear => Spacing::Linear,
            SpacingFlag::Quadratic => Spacing::Quadratic,
            SpacingFlag::Linspace => Spacing::Linspace,
            SpacingFlag::Leading => Spacing::Leading,
            SpacingFlag::Trailing => Spacing::Trailing,
        };
        settings.eta = self.eta;
        settings.rate = self.rate.unwrap_or(settings.rate);
        settings.consistency = self.consistency.unwrap_or(settings.consistency);
        settings.published_transpose = self.published_transpose;
        settings.clip = !self.no_clip;
        settings.check()?;
        Ok(settings)
    }
}

/// True after Ctrl-C: runs stop after their step, what is finished stays.
pub(crate) fn interrupted() -> &'static AtomicBool {
    static FLAG: AtomicBool = AtomicBool::new(false);
    static HANDLER: OnceLock<()> = OnceLock::new();
    HANDLER.get_or_init(|| {
        // A second Ctrl-C ends the program at once.
        let _ = ctrlc::set_handler(|| {
            if FLAG.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            complain!("\nstopping after this step; finished images stay");
        });
    });
    &FLAG
}

fn print_line(line: fmt::Arguments<'_>) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(Error::io("standard output"))
}

fn print_complaint(line: fmt::Arguments<'_>) {
    // There is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Makes a folder for results.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    if path.exists() && !path.is_dir() {
        return Err(Error::Invalid(format!("{} is a file; give a folder for the results", shown(path))));
    }
    std::fs::create_dir_all(path).map_err(Error::io(path))
}
