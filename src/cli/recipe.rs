//! The recipe of a job's input.

use super::job::Job;
use crate::error::{Error, Result};
use crate::report::Recipe;
use crate::weights::hexadecimal;
use sha2::{Digest, Sha256};
use std::path::Path;

/// The recipe of one input of a job. Reads the input file to hash it.
pub fn recipe_of(job: &Job, input: &Path) -> Result<Recipe> {
    let s = &job.settings;
    Ok(Recipe {
        input_sha256: sha256(input)?,
        measurement: job.measurement,
        crop: job.read.crop,
        task: job.operator.task(),
        task_file_sha256: job.task_file_sha256.clone(),
        noise: job.noise.map(|n| n.to_string()),
        seed: job.seed,
        samples: job.samples,
        restarts: job.restarts,
        model_sha256: job.model_sha256.clone(),
        prompt: job.prompt.clone(),
        label: job.label,
        precision: job.precision,
        estimate: s.method.answer().name(),
        method: s.method.method(),
        steps: s.steps,
        variance: format!("{:?}", s.variance),
        spacing: format!("{:?}", s.spacing),
        eta: s.eta,
        clip: s.clip,
    })
}

/// SHA-256 of a file in hexadecimal.
pub fn sha256(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut file = std::fs::File::open(path).map_err(Error::io(path))?;
    std::io::copy(&mut file, &mut hash).map_err(Error::io(path))?;
    Ok(hexadecimal(hash))
}
