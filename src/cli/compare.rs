//! `dmap compare`: which method restores these photos best. Every photo is degraded once, and every
//! method restores it from that measurement.

mod contest;
mod reported;
mod results;
mod rows;
mod tables;

use super::cse_flags::CseFlags;
use super::device::DeviceFlags;
use super::inputs::{Input, expand};
use super::level_flags::LevelFlags;
use super::losses::Losses;
use super::prior_flags::{PriorFlags, warn};
use super::reported::check_report;
use super::results_folder::ResultsFolder;
use super::{interrupted, quantity};
use crate::error::{Error, ErrorKind, Result, shown};
use crate::image::ReadOptions;
use crate::metrics::Lpips;
use crate::operator::parse_task;
use crate::report::MethodsReport;
use crate::sampler::Noise;
use crate::trial::Trial;
use contest::{Contest, Contestant};
use reported::{add_photo, write_report};
use results::Results;
use rows::{csv, photo_line};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tables::means_table;

const EXAMPLES: &str = "\
Examples:
  dmap compare photos/ --task sr4 --passes 32 --out sr4 --report sr4.html
  dmap compare a.png b.png --task gaussian-blur --size 256 --method dpir --method dmap:k=5 --out blur";

/// Flags of `dmap compare`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Compare {
    /// Photos, folders or patterns
    #[arg(required = true)]
    photos: Vec<PathBuf>,
    /// What degrades the photos, as for `dmap restore`
    #[arg(long)]
    task: String,
    /// Noise of the measurement as for `dmap restore`
    #[arg(long, value_name = "SIGMA|poisson:RATE", default_value = "0.025")]
    noise: String,
    /// Method with its options as for `dmap restore`, several times for several methods [default:
    /// auto, dps and dmap]. The others are compared with the first
    #[arg(long = "method")]
    methods: Vec<String>,
    #[command(flatten)]
    levels: LevelFlags,
    /// Take the centre of each photo: S or WxH pixels
    #[arg(long, value_name = "S|WxH")]
    size: Option<String>,
    /// Only the first N photos, in order of name
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Seed of mask, kernel, measurement noise and sampler, the same for every photo and method
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    prior: PriorFlags,
    #[command(flatten)]
    cse: CseFlags,
    #[command(flatten)]
    device: DeviceFlags,
    /// Folder for results.json, results.csv and, in a folder per photo, the pictures
    #[arg(long, value_name = "FOLDER", help_heading = "Output")]
    out: PathBuf,
    /// Replace the results of an earlier run in this folder
    #[arg(long, help_heading = "Output")]
    overwrite: bool,
    /// Report LPIPS too, with these weights, as for `dmap restore`
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    lpips: Vec<PathBuf>,
    /// Write a page with the table and the pictures of every photo, any two under a handle. It
    /// stands by itself and needs no network
    #[arg(long, value_name = "FILE.html", help_heading = "Output")]
    report: Option<PathBuf>,
}

pub(super) fn run(flags: Compare) -> anyhow::Result<ExitCode> {
    // From here on Ctrl-C ends the run after a step, the first one included.
    interrupted();
    let mut inputs = expand(&flags.photos)?;
    inputs.truncate(flags.limit.map_or(usize::MAX, |n| n as usize));
    // The message starts with "noise", so two dashes make it the name of the flag.
    let noise = flags.noise.parse::<Noise>().map_err(|e| Error::Invalid(format!("--{e}")))?;
    let crop = flags.size.as_deref().map(quantity::size).transpose()?;
    let lpips = if flags.lpips.is_empty() { None } else { Some(Lpips::open(&flags.lpips)?) };
    let operator = parse_task(&flags.task)?;
    let model = flags.cse.on(flags.prior.open()?, operator.as_ref())?;
    let label = flags.prior.checked_label(&model.network.prior())?;
    let settings =
        contest::settings(&flags.methods, |typed| flags.levels.settings(typed, &model, operator.as_ref(), noise))?;
    let (device, plan) = (flags.device.open()?, flags.device.plan()?);
    let seed = flags.seed;
    let trial = |settings| {
        let (model, operator, device, restarts) = (&model, &operator, &device, operator.restarts());
        Trial { model, label, operator, settings, noise, seed, samples: 1, restarts, plan, device }
    };
    let methods = settings.into_iter().map(|(name, settings)| Contestant::new(name, trial(settings))).collect();
    let contest = Contest { methods, read: ReadOptions { crop, ..ReadOptions::default() }, lpips };
    if let Some(report) = &flags.report {
        check_report(report, &flags.out)?;
    }
    let folder = ResultsFolder::open(&flags.out, flags.overwrite)?;
    warn(&model);
    say!("{}, noise {noise}, on {}", operator.task(), device.name_and_reason())?;
    for method in &contest.methods {
        say!("{}: {}, {} levels", method.name, method.method(), method.steps())?;
    }
    let results = Results {
        task: operator.task(),
        noise: noise.to_string(),
        crop,
        model: model.name.clone(),
        model_sha256: model.sha256()?,
        prompt: flags.prior.prompt,
        label,
        cse: flags.cse.cse.as_deref().map(shown),
        seed,
        device: device.name(),
        precision: flags.device.precision(),
        version: env!("CARGO_PKG_VERSION"),
        lpips_network: contest.lpips.as_ref().map(Lpips::name),
        photos_asked: inputs.len(),
        methods: Vec::new(),
        rows: Vec::new(),
    };
    let report = flags.report.as_ref().map(|_| MethodsReport::default());
    let mut run = Run { contest, folder, results, report, losses: Losses::default() };
    let ended = run.restore(&inputs);
    run.finish(ended, flags.report.as_deref())
}

/// A run over photos.
struct Run<'a> {
    contest: Contest<'a>,
    folder: ResultsFolder,
    results: Results,
    report: Option<MethodsReport>,
    losses: Losses,
}

impl Run<'_> {
    /// Restores every photo by every method, and writes the results after each: whatever ends the
    /// run leaves those of the finished photos. A photo that one method can't restore counts for
    /// none.
    fn restore(&mut self, inputs: &[Input]) -> Result<()> {
        for input in inputs {
            let photo = match self.contest.restore(input) {
                Ok(photo) => photo,
                Err(e) => {
                    let name = shown(&input.path);
                    let said = self.losses.add(std::slice::from_ref(&name), e)?;
                    if let Some(report) = &mut self.report {
                        report.add_failure(&name, &said);
                    }
                    continue;
                }
            };
            photo.write(&self.folder.path)?;
            say!("{}", photo_line(&photo.rows))?;
            self.results.add(&self.contest, &photo);
            self.folder.write(&self.results, &csv(&self.results.rows))?;
            if let Some(report) = &mut self.report {
                add_photo(report, input, &photo)?;
            }
        }
        Ok(())
    }

    /// Prints the table and writes the page, whatever ended the run.
    fn finish(self, ended: Result<()>, page: Option<&Path>) -> anyhow::Result<ExitCode> {
        let Run { folder, results, report, losses, .. } = self;
        let is_stopped = matches!(ended, Err(Error::Cancelled));
        match results.photos() {
            0 if is_stopped => return Ok(folder.stopped_before_the_first()),
            0 => {
                folder.remove_if_empty();
                ended?;
                complain!("dmap: none of the photos could be restored; nothing is written");
                return Ok(losses.exit_code());
            }
            _ => {}
        }
        say!("{}", means_table(&results.methods).text())?;
        say!("{} of {} photos -> {}", results.photos(), results.photos_asked, shown(&folder.path))?;
        if let (Some(report), Some(page)) = (report, page) {
            write_report(report, &results, page)?;
        }
        match ended {
            _ if is_stopped => Ok(ExitCode::from(ErrorKind::Cancelled.exit_code())),
            Err(e) => Err(e.into()),
            Ok(()) => Ok(losses.exit_code()),
        }
    }
}
