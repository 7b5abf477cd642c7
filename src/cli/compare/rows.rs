//! The figures of one method on one photo.

use crate::cli::results_folder::{csv_number, csv_text};
use serde::Serialize;

/// The name of the naive restoration among the methods.
pub(super) const NAIVE: &str = "naive";

/// The figures of one method on one photo.
#[derive(Serialize, Clone, Debug)]
pub(super) struct Row {
    pub photo: String,
    pub method: String,
    pub psnr: f64,
    pub ssim: f64,
    pub lpips: Option<f64>,
    /// None without noise.
    pub residual_over_noise: Option<f64>,
    /// Network passes; 0 for the naive restoration.
    pub passes: usize,
    pub seconds: Option<f64>,
}

/// The rows of one method, in the order of the photos.
pub(super) fn of<'a>(rows: &'a [Row], name: &str) -> impl Iterator<Item = &'a Row> {
    rows.iter().filter(move |r| r.method == name)
}

/// `results.csv`: one row per photo and method.
pub(super) fn csv(rows: &[Row]) -> String {
    let mut table = String::from("photo,method,psnr,ssim,lpips,residual_over_noise,passes,seconds\n");
    for r in rows {
        let [photo, method] = [&r.photo, &r.method].map(|text| csv_text(text));
        let [lpips, residual, seconds] = [r.lpips, r.residual_over_noise, r.seconds].map(csv_number);
        table += &format!("{photo},{method},{},{},{lpips},{residual},{},{seconds}\n", r.psnr, r.ssim, r.passes);
    }
    table
}

/// What is printed when a photo is finished.
pub(super) fn photo_line(rows: &[Row]) -> String {
    let figures: Vec<String> = rows.iter().map(|r| format!("{} {:.2}", r.method, r.psnr)).collect();
    format!("{}: {} dB", rows[0].photo, figures.join(", "))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Two photos by two methods.
    pub fn rows() -> Vec<Row> {
        let row = |photo: &str, method: &str, psnr| Row {
            photo: photo.into(),
            method: method.into(),
            psnr,
            ssim: 0.5,
            lpips: Some(40.0 - psnr),
            residual_over_noise: None,
            passes: 4,
            seconds: Some(1.0),
        };
        vec![row("a\"", "naive", 20.0), row("a\"", "dps", 23.0), row("b", "naive", 24.0), row("b", "dps", 25.0)]
    }

    #[test]
    fn a_row_per_photo_and_method() {
        let table = csv(&rows());
        assert_eq!(table.lines().count(), 5);
        assert_eq!(table.lines().nth(2), Some("\"a\"\"\",\"dps\",23,0.5,17,,4,1"));
        assert_eq!(photo_line(&rows()[..2]), "a\": naive 20.00, dps 23.00 dB");
    }
}
