//! `dmap selftest`: the kernels of a device against the CPU.

use crate::backend::Device;
use crate::error::Error;
use crate::selftest::{MODES, run as check};
use std::process::ExitCode;

/// Flags of `dmap selftest`.
#[derive(clap::Args, Debug)]
pub struct Selftest {
    /// cpu, cuda, cuda:N, or auto
    #[arg(long, default_value = "auto")]
    device: String,
    /// Only this storage type: f32-strict, f32, f16 or bf16
    #[arg(long)]
    precision: Option<String>,
}

pub(super) fn run(flags: Selftest) -> anyhow::Result<ExitCode> {
    let device = Device::open(&flags.device)?;
    say!("{} against the CPU; errors as shares of their limits", device.name())?;
    if let Some(unknown) = flags.precision.as_deref().filter(|p| !MODES.iter().any(|m| m.name == *p)) {
        let known = MODES.map(|m| m.name).join(", ");
        return Err(Error::Invalid(format!("unknown precision {unknown}: {known} are known")).into());
    }
    // The CPU has one storage type.
    let wanted = |name: &str| flags.precision.as_deref().is_none_or(|p| p == name);
    let modes = MODES.iter().filter(|m| wanted(m.name) && (!device.is_cpu() || m.name == "f32-strict"));
    let (mut failures, mut checks, mut printed) = (0, 0, Ok(()));
    for mode in modes {
        failures += check(&device, mode, |outcome| {
            checks += 1;
            let line = match &outcome.result {
                Ok(share) => say!("ok      {:10} {:40} {share:.2}", outcome.mode, outcome.name),
                Err(reason) => say!("FAILED  {:10} {:40} {reason}", outcome.mode, outcome.name),
            };
            printed = std::mem::replace(&mut printed, Ok(())).and(line);
        });
    }
    printed?;
    say!("{} of {checks} checks passed", checks - failures)?;
    let passed = failures == 0 && checks > 0;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
