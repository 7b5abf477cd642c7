//! The command line: flags become a checked job, which is then run.

/// Prints a line. If stdout can't be written, as on a full disk, this is an error and not a panic.
macro_rules! say {
    ($($line:tt)*) => { crate::cli::print_line(format_args!($($line)*)) };
}

/// Prints a line to stderr and ignores errors of writing.
macro_rules! complain {
    ($($line:tt)*) => { crate::cli::print_complaint(format_args!($($line)*)) };
}

mod analyse;
mod bench;
mod compare;
mod cse_flags;
mod demo;
mod device;
mod eval;
mod eval_set;
mod info;
mod inputs;
mod job;
mod level_flags;
mod losses;
mod mean;
mod old_flags;
mod outputs;
mod pending;
mod plan;
mod plan_training;
mod prepare;
mod prior_flags;
mod quantity;
mod queue;
mod recipe;
mod reported;
mod restore;
mod results_folder;
mod sampler_flags;
mod seconds;
mod selftest;
mod settle;
mod time_model;
mod train_cse;
mod tune;

use crate::error::{Error, Result, shown};
use clap::{Parser, Subcommand};
use std::fmt;
use std::io::Write;
use std::ops::ControlFlow;
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
    /// Restore photos by several methods and say which restores them best
    Compare(Box<compare::Compare>),
    /// Search the options of methods on photos, and write the best as a preset
    Tune(Box<tune::Tune>),
    /// Train a conditional score estimator for a task on photos
    TrainCse(Box<train_cse::TrainCse>),
    /// Print memory, work and launches of one step, without weights or a GPU
    Plan(plan::PlanArguments),
    /// Measure three findings about DPS: its score, the score's mean, the diversity of its samples
    Analyse(Box<analyse::Analyse>),
    /// Evaluate model, residual and gradient once, from and to safetensors files
    Eval(eval::Eval),
    /// Restore a folder of photos in the setting of a public benchmark and print the metrics
    EvalSet(Box<eval_set::EvalSet>),
    /// Show what a weight file is
    Info(info::Info),
    /// Check the kernels of a device against the CPU
    Selftest(selftest::Selftest),
    /// Measure a device op by op and step by step
    Bench(bench::Bench),
    /// List tasks, methods and architectures
    Tasks,
}

/// Runs the command that the arguments select.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Demo(demo) => demo::run(demo),
        Command::Restore(restore) => restore::run(*restore),
        Command::Compare(compare) => compare::run(*compare),
        Command::Tune(tune) => tune::run(*tune),
        Command::TrainCse(train) => train_cse::run(*train),
        Command::Plan(plan) => plan::run(plan),
        Command::Analyse(analyse) => analyse::run(*analyse),
        Command::Eval(eval) => eval::run(eval),
        Command::EvalSet(eval_set) => eval_set::run(*eval_set),
        Command::Info(info) => info::run(info),
        Command::Selftest(selftest) => selftest::run(selftest),
        Command::Bench(bench) => bench::run(bench),
        Command::Tasks => {
            info::list()?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// True after Ctrl-C. Runs then stop after the current step, and finished results are kept.
pub(crate) fn interrupted() -> &'static AtomicBool {
    static FLAG: AtomicBool = AtomicBool::new(false);
    static HANDLER: OnceLock<()> = OnceLock::new();
    HANDLER.get_or_init(|| {
        // A second Ctrl-C ends the program at once.
        let _ = ctrlc::set_handler(|| {
            if FLAG.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            complain!("\nstopping after this step; what is finished stays");
        });
    });
    &FLAG
}

/// Whether a run takes its next step: not after Ctrl-C.
pub(crate) fn go_on() -> ControlFlow<()> {
    if interrupted().load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

fn print_line(line: fmt::Arguments<'_>) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(Error::io("standard output"))
}

fn print_complaint(line: fmt::Arguments<'_>) {
    // If stderr can't be written, there is nowhere to report it.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Makes a folder for results.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    if path.exists() && !path.is_dir() {
        return Err(Error::Invalid(format!("{} is a file; give a folder for the results", shown(path))));
    }
    std::fs::create_dir_all(path).map_err(Error::io(path))
}
