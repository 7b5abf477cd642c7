//! The methods that are compared, and what they make of a photo.

use super::rows::{NAIVE, Row};
use crate::cli::inputs::Input;
use crate::cli::{go_on, make_folder};
use crate::error::{Error, Result};
use crate::image::{Photo, Picture, ReadOptions};
use crate::metrics::{Lpips, LpipsRange, psnr, ssim};
use crate::operator::{Operator, baseline};
use crate::report::view;
use crate::sampler::Settings;
use crate::trial::{Measured, Ready, Trial};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::Path;

/// The methods that are compared if the user names none.
const USUAL: [&str; 3] = ["auto", "dps", "dmap"];

/// The settings of each method by the name that the user typed. Fails if two are the same, except
/// that of the usual ones the second is left out: `auto` may be one of them.
pub(super) fn settings(typed: &[String], parse: impl Fn(&str) -> Result<Settings>) -> Result<Vec<(String, Settings)>> {
    let names: Vec<&str> = if typed.is_empty() { USUAL.to_vec() } else { typed.iter().map(String::as_str).collect() };
    let mut all: Vec<(String, Settings)> = Vec::new();
    for name in names {
        let new = parse(name)?;
        let is_same = |old: &Settings| (old.method.method(), old.steps) == (new.method.method(), new.steps);
        match all.iter().find(|(_, old)| is_same(old)) {
            None => all.push((name.into(), new)),
            Some(_) if typed.is_empty() => {}
            Some((other, _)) if other == name => {
                return Err(Error::Invalid(format!("--method {name} is given twice: leave one of them out")));
            }
            Some((other, _)) => {
                let (method, steps) = (new.method.method(), new.steps);
                return Err(Error::Invalid(format!(
                    "--method {name} and --method {other} are the same, {method} with {steps} levels: leave one of them out"
                )));
            }
        }
    }
    Ok(all)
}

/// A method that is compared.
pub(super) struct Contestant<'a> {
    /// As the user typed it.
    pub name: String,
    trial: Trial<'a>,
    /// Kept from photo to photo, as planning and the copy of the weights take their time.
    ready: Ready,
}

impl<'a> Contestant<'a> {
    pub fn new(name: String, trial: Trial<'a>) -> Contestant<'a> {
        Contestant { name, trial, ready: Ready::default() }
    }

    /// With all its options.
    pub fn method(&self) -> String {
        self.trial.settings.method.method()
    }

    pub fn steps(&self) -> usize {
        self.trial.settings.steps
    }

    /// The figures of this method on a photo, and what it restored.
    fn restore(&mut self, photo: &str, measured: &Measured, lpips: Option<&Lpips>) -> Result<(Row, Picture)> {
        let steps = self.steps() as u64 * u64::from(self.trial.restarts);
        let style =
            ProgressStyle::with_template("{prefix} [{bar:30}] step {pos}/{len}, {eta} left").expect("a template");
        let bar = ProgressBar::new(steps).with_style(style.progress_chars("=> "));
        bar.set_prefix(format!("{photo} by {}", self.name));
        let score = self.trial.score(measured, &mut self.ready, &|| {
            bar.inc(1);
            go_on()
        });
        bar.finish_and_clear();
        let score = score.map_err(|e| match e {
            Error::NotFinite { item, reason } => Error::NotFinite { item, reason: format!("{}: {reason}", self.name) },
            other => other,
        })?;
        let row = Row {
            photo: photo.into(),
            method: self.name.clone(),
            psnr: score.psnr,
            ssim: score.ssim,
            lpips: distance(lpips, &score.picture, measured)?,
            residual_over_noise: Some(score.residual_ratio).filter(|r| r.is_finite()),
            passes: score.passes,
            seconds: Some(score.seconds),
        };
        Ok((row, score.picture))
    }
}

/// The methods, and how photos are read and compared.
pub(super) struct Contest<'a> {
    /// At least one. They differ in nothing but their settings.
    pub methods: Vec<Contestant<'a>>,
    pub read: ReadOptions,
    pub lpips: Option<Lpips>,
}

impl Contest<'_> {
    /// Measures a photo once and restores it by every method.
    pub fn restore(&mut self, input: &Input) -> Result<ComparedPhoto> {
        let Photo { picture, grey, .. } = Photo::read_with(&input.path, &self.read)?;
        let Trial { operator, noise, seed, .. } = self.methods[0].trial;
        let operator = operator.as_ref();
        let measured = Measured::new(operator, picture, grey, noise, seed)?;
        let y = operator.picture(&measured.measurement.y, operator.measurement_shape(measured.image));
        let (naive, row, picture) = naive_row(&input.name, operator, &measured, self.lpips.as_ref())?;
        let (mut rows, mut restored) = (vec![row], vec![(NAIVE.to_string(), picture)]);
        for method in &mut self.methods {
            let (row, picture) = method.restore(&input.name, &measured, self.lpips.as_ref())?;
            rows.push(row);
            restored.push((method.name.clone(), picture));
        }
        let seen = view(operator, &y, &measured.measurement.state, measured.image);
        Ok(ComparedPhoto { folder: input.name.clone(), naive, rows, measured, y, seen, restored })
    }
}

/// Name, figures and picture of the naive restoration.
fn naive_row(
    photo: &str,
    operator: &dyn Operator,
    measured: &Measured,
    lpips: Option<&Lpips>,
) -> Result<(&'static str, Row, Picture)> {
    let Measured { truth, grey, image, measurement, drawn, .. } = measured;
    let (name, naive) = baseline(operator, &measurement.y, &measurement.state, *image);
    let naive = if *grey { naive.grey() } else { naive };
    let row = Row {
        photo: photo.into(),
        method: NAIVE.into(),
        psnr: psnr(&naive, truth),
        ssim: ssim(&naive, truth),
        lpips: distance(lpips, &naive, measured)?,
        residual_over_noise: Some(measurement.residual(operator, *image, &naive)? / drawn).filter(|r| r.is_finite()),
        passes: 0,
        seconds: None,
    };
    Ok((name, row, naive))
}

fn distance(lpips: Option<&Lpips>, picture: &Picture, measured: &Measured) -> Result<Option<f64>> {
    lpips.map(|l| l.distance(picture, &measured.truth, LpipsRange::EightBit, 0)).transpose()
}

/// A photo that every method has restored.
pub(super) struct ComparedPhoto {
    folder: String,
    /// What the naive restoration is.
    pub naive: &'static str,
    /// The naive restoration's figures, then those of each method.
    pub rows: Vec<Row>,
    pub measured: Measured,
    /// The measurement as a picture.
    y: Picture,
    /// The same in the size of the photo, as people look at it.
    pub seen: Picture,
    /// What was restored, in the order of the rows.
    pub restored: Vec<(String, Picture)>,
}

impl ComparedPhoto {
    /// Writes the pictures into the photo's folder below `out`, each whole.
    pub fn write(&self, out: &Path) -> Result<()> {
        let folder = out.join(&self.folder);
        make_folder(&folder)?;
        let is_grey = self.measured.grey;
        let write = |name: &str, picture: &Picture, grey: bool| match grey {
            true => picture.write_grey_png(&folder.join(name)),
            false => picture.write_png(&folder.join(name)),
        };
        write("original.png", &self.measured.truth, is_grey)?;
        write("measurement.png", &self.y, is_grey && self.y.is_grey())?;
        self.restored.iter().try_for_each(|(name, picture)| write(&picture_name(name), picture, is_grey))
    }
}

/// The file name of a method's picture: what Windows allows in no name becomes a dash.
pub(super) fn picture_name(method: &str) -> String {
    let is_kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ',' | '=' | '_');
    method.chars().map(|c| if is_kept(c) { c } else { '-' }).collect::<String>() + ".png"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    fn all(typed: &[&str]) -> Result<Vec<(String, usize)>> {
        let prior = Model::architecture("adm-256").unwrap().network.prior();
        // `auto` is `dmap` here.
        let parse = |name: &str| Settings::parse(if name == "auto" { "dmap" } else { name }, &prior);
        let typed: Vec<String> = typed.iter().map(|t| t.to_string()).collect();
        Ok(settings(&typed, parse)?.into_iter().map(|(name, s)| (name, s.steps)).collect())
    }

    #[test]
    fn a_method_is_compared_once() {
        let names = |typed: &[&str]| all(typed).map(|all| all.into_iter().map(|a| a.0).collect::<Vec<_>>());
        assert_eq!(names(&[]).unwrap(), ["auto", "dps"]);
        assert_eq!(names(&["ddrm", "dmap:k=2", "dmap"]).unwrap(), ["ddrm", "dmap:k=2", "dmap"]);
        let said = |typed: &[&str]| names(typed).unwrap_err().to_string();
        assert_eq!(said(&["dps", "dps"]), "--method dps is given twice: leave one of them out");
        assert!(said(&["auto", "dps", "dmap"]).contains("--method dmap and --method auto are the same, dmap:k="));
        assert!(said(&["no-such"]).contains("no-such"));
    }

    #[test]
    fn a_method_with_other_steps_is_another() {
        let prior = Model::architecture("adm-256").unwrap().network.prior();
        let parse = |name: &str| match name {
            "auto" => Ok(Settings::parse("dmap", &prior)?.steps(3)),
            name => Settings::parse(name, &prior),
        };
        let names: Vec<String> = settings(&[], parse).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, USUAL);
    }

    #[test]
    fn a_method_names_its_picture() {
        assert_eq!(picture_name("dps:step=polyak:0.3,whiten=0"), "dps-step=polyak-0.3,whiten=0.png");
        assert_eq!(picture_name("a/../b\\c"), "a-..-b-c.png");
    }
}
