//! What a comparison gives to its page.

use super::contest::ComparedPhoto;
use super::results::{MethodMeans, Results};
use super::tables::{means_table, photo_table};
use crate::cli::inputs::Input;
use crate::error::{Result, shown};
use crate::image::Picture;
use crate::report::{DotRow, MethodsReport, ShownPhoto, write_page};
use std::path::Path;

/// Adds a photo with its pictures: the photo, its measurement, then what was restored.
pub(super) fn add_photo(report: &mut MethodsReport, input: &Input, photo: &ComparedPhoto) -> Result<()> {
    let is_grey = photo.measured.grey;
    let of_input = |picture: &Picture| if is_grey { picture.clone().grey() } else { picture.clone() };
    let original = ("original".to_string(), of_input(&photo.measured.truth));
    let mut pictures = vec![original, ("measurement".to_string(), photo.seen.clone())];
    for ((name, picture), row) in photo.restored.iter().zip(&photo.rows) {
        pictures.push((format!("{name}, {:.2} dB", row.psnr), of_input(picture)));
    }
    // The measurement and the first method, which stands behind the naive restoration.
    let (first, table) = ([1, 3], photo_table(&photo.rows));
    report.add_photo(&ShownPhoto { name: &shown(&input.path), pictures: &pictures, first, table })
}

/// Writes the page about all photos that are finished.
pub(super) fn write_report(report: MethodsReport, results: &Results, path: &Path) -> Result<()> {
    let mut facts = vec![
        ("task", results.task.clone()),
        ("noise", results.noise.clone()),
        ("photos", format!("{} of {}", results.photos(), results.photos_asked)),
        ("size", results.crop.map_or("whole photos".into(), |(w, h)| format!("the centre {w}x{h} pixels"))),
        ("model", results.model.clone()),
    ];
    facts.extend(results.cse.iter().map(|cse| ("estimator", cse.clone())));
    facts.extend(results.methods.iter().map(|m| {
        let levels = m.steps.map_or(String::new(), |steps| format!(", {steps} levels"));
        (m.name.as_str(), format!("{}{levels}", m.method))
    }));
    facts.extend([
        ("seed", results.seed.to_string()),
        ("device", format!("{}, {}", results.device, results.precision)),
        ("program", format!("dmap {}", results.version)),
    ]);
    let rows: Vec<DotRow<'_>> = results.methods.iter().map(|means| dot_row(results, means)).collect();
    let title = format!("{} by {} methods", results.task, results.methods.len() - 1);
    write_page(path, &report.page(&title, &facts, &means_table(&results.methods), &rows))?;
    say!("look at {}", shown(path))
}

fn dot_row<'a>(results: &Results, means: &'a MethodMeans) -> DotRow<'a> {
    DotRow {
        name: &means.name,
        values: results.of(&means.name).map(|row| row.psnr).collect(),
        mean: means.psnr.map_or(f64::NAN, |mean| mean.mean),
        standard_error: means.psnr.and_then(|mean| mean.standard_error),
        written: means.psnr.map_or("-".into(), |mean| mean.shown(2)),
    }
}
