//! `dmap selftest`: the kernels of a device against the CPU, or real shapes against f32 throughout.

use crate::backend::Device;
use crate::error::{Error, Result, nearest};
use crate::ops::variant_tables;
use crate::selftest::{Check, MODES, Mode, checks, large_checks};
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};

/// Flags of `dmap selftest`.
#[derive(clap::Args, Debug)]
pub struct Selftest {
    /// cpu, cuda, cuda:N, or auto
    #[arg(long, default_value = "auto")]
    device: String,
    /// Only this storage type: f32-strict, f32, f16 or bf16
    #[arg(long)]
    precision: Option<String>,
    /// Only checks whose names contain this
    #[arg(long)]
    only: Option<String>,
    /// Six real shapes instead, each against f32 throughout on the same device
    #[arg(long)]
    large: bool,
    /// Divides the extents of --large, for slow devices
    #[arg(long, default_value_t = 1, requires = "large", value_parser = clap::value_parser!(u32).range(1..))]
    shrink: u32,
    /// Number of checks to leave out at the start, for a process that continues after the device
    /// failed in another process
    #[arg(long, default_value_t = 0, hide = true)]
    skip: usize,
}

/// Numbers of checks by result.
#[derive(Default)]
struct Count {
    checks: usize,
    failures: usize,
}

pub(super) fn run(flags: Selftest) -> anyhow::Result<ExitCode> {
    if let Some(unknown) = flags.precision.as_deref().filter(|p| !MODES.iter().any(|m| m.name == *p)) {
        let known = MODES.map(|m| m.name).join(", ");
        return Err(Error::Invalid(format!("unknown precision {unknown}: {known} are known")).into());
    }
    let selected = selected(&flags)?;
    let device = Device::open(&flags.device)?;
    if flags.skip == 0 {
        let reference = if flags.large { "f32-strict on itself" } else { "the CPU" };
        say!("{} against {reference}; errors as shares of their limits", device.name_and_reason())?;
    }
    // The CPU has one storage type. Real shapes are compared with f32-strict, so that mode is left
    // out for them.
    let has = |m: &Mode| if flags.large { m.name != "f32-strict" } else { !device.is_cpu() || m.name == "f32-strict" };
    let wanted = |name: &str| flags.precision.as_deref().is_none_or(|p| p == name);
    let mut count = Count::default();
    for mode in MODES.iter().filter(|m| wanted(m.name) && has(m)) {
        check(&flags, mode, &selected, &device, &mut count)?;
    }
    if flags.skip == 0 {
        say!("{} of {} checks passed", count.checks - count.failures, count.checks)?;
    }
    // A process that continues for another one may have no checks left.
    let passed = count.failures == 0 && (count.checks > 0 || flags.skip > 0);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The op of a case, or the whole name of another check.
fn family(name: &str) -> &str {
    if name.starts_with("two ") { name } else { name.split([' ', ',']).next().unwrap_or(name) }
}

/// The checks that the flags select. On an unknown name the error lists the ops, whose cases are
/// too many, and the other checks.
fn selected(flags: &Selftest) -> Result<Vec<Check>> {
    let all = if flags.large { large_checks(flags.shrink as usize) } else { checks() };
    let Some(only) = &flags.only else { return Ok(all) };
    let mut names: Vec<String> = all.iter().map(|c| family(&c.name).to_string()).collect();
    names.sort();
    names.dedup();
    let selected: Vec<Check> = all.into_iter().filter(|c| c.name.contains(only.as_str())).collect();
    if selected.is_empty() {
        let near = nearest(only, names.iter().map(String::as_str)).unwrap_or_default();
        let reason = format!("no check is called {only}: did you mean {near}? Checks begin with: {}", names.join("; "));
        return Err(Error::Invalid(reason));
    }
    Ok(selected)
}

/// Runs the checks in one storage type. If the device itself fails, a fresh process continues,
/// because every later device call of this process would fail.
fn check(flags: &Selftest, mode: &Mode, selected: &[Check], device: &Device, count: &mut Count) -> Result<()> {
    let variants = variant_tables::from_environment()?;
    for (k, check) in selected.iter().enumerate().skip(flags.skip) {
        let result = check.run(mode, device, variants);
        count.checks += 1;
        match &result {
            Ok(share) => say!("ok      {:10} {:40} {share:.2}", mode.name, check.name)?,
            Err(failure) => say!("FAILED  {:10} {:40} {}", mode.name, check.name, failure.reason)?,
        }
        if let Err(failure) = result {
            count.failures += 1;
            if failure.device_failed {
                return go_on(flags, mode, k + 1, count);
            }
        }
    }
    Ok(())
}

/// The checks from number `skip` on, in a fresh process. Its lines are printed here.
fn go_on(flags: &Selftest, mode: &Mode, skip: usize, count: &mut Count) -> Result<()> {
    let program = std::env::current_exe().map_err(Error::io("the running program"))?;
    let mut command = Command::new(program);
    command.args(["selftest", "--device", &flags.device, "--precision", mode.name, "--skip", &skip.to_string()]);
    command.args(flags.only.iter().flat_map(|only| ["--only", only]));
    if flags.large {
        command.args(["--large", "--shrink", &flags.shrink.to_string()]);
    }
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(Error::io("a fresh process"))?;
    let lines = child.stdout.take().map(|out| BufReader::new(out).lines());
    for line in lines.into_iter().flatten().map_while(|line| line.ok()) {
        count.checks += usize::from(line.starts_with("ok ") || line.starts_with("FAILED "));
        count.failures += usize::from(line.starts_with("FAILED "));
        say!("{line}")?;
    }
    let status = child.wait().map_err(Error::io("a fresh process"))?;
    // With exit code 0 or 1, the printed lines have been counted already.
    match status.code() {
        Some(0 | 1) => Ok(()),
        code => Err(Error::Failed(format!("the process that went on ended with {code:?}"))),
    }
}
