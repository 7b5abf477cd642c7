//! `results.json`: the rows of all photos and their means.

use super::contest::{ComparedPhoto, Contest, picture_name};
use super::rows::{NAIVE, Row, of};
use crate::cli::mean::Mean;
use serde::Serialize;

/// The means of one method over the photos.
#[derive(Serialize, Clone, Debug)]
pub(super) struct MethodMeans {
    /// As the user typed it, or `naive`.
    pub name: String,
    /// With all its options; of the naive restoration what it is.
    pub method: String,
    pub steps: Option<usize>,
    /// Name of its picture in the folder of a photo.
    pub picture: String,
    pub psnr: Option<Mean>,
    pub ssim: Option<Mean>,
    pub lpips: Option<Mean>,
    pub residual_over_noise: Option<Mean>,
    pub passes: usize,
    pub seconds: Option<Mean>,
    /// PSNR minus that of the first method, photo by photo; none for the first itself.
    pub psnr_over_first: Option<Mean>,
}

/// `results.json`.
#[derive(Serialize, Debug)]
pub(super) struct Results {
    pub task: String,
    pub noise: String,
    /// Width and height of the part of each photo that was taken; none for whole photos.
    pub crop: Option<(usize, usize)>,
    pub model: String,
    pub model_sha256: String,
    pub prompt: Option<String>,
    pub label: Option<u32>,
    pub cse: Option<String>,
    pub seed: u64,
    pub device: String,
    pub precision: &'static str,
    pub version: &'static str,
    pub lpips_network: Option<&'static str>,
    pub photos_asked: usize,
    /// The naive restoration, then the methods in the order in which they were given.
    pub methods: Vec<MethodMeans>,
    pub rows: Vec<Row>,
}

impl Results {
    /// Adds a photo and computes the means anew.
    pub fn add(&mut self, contest: &Contest<'_>, photo: &ComparedPhoto) {
        self.rows.extend(photo.rows.iter().cloned());
        let naive = (NAIVE, photo.naive.to_string(), None);
        let methods = contest.methods.iter().map(|m| (m.name.as_str(), m.method(), Some(m.steps())));
        let first = contest.methods[0].name.as_str();
        let all = std::iter::once(naive).chain(methods);
        self.methods = all.map(|(name, method, steps)| means_of(&self.rows, name, method, steps, first)).collect();
    }

    /// The rows of one method, in the order of the photos.
    pub fn of<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Row> {
        of(&self.rows, name)
    }

    /// The number of photos that were restored.
    pub fn photos(&self) -> usize {
        self.of(NAIVE).count()
    }
}

/// The means of one method; `first` is the one that the others are compared with.
pub(super) fn means_of(rows: &[Row], name: &str, method: String, steps: Option<usize>, first: &str) -> MethodMeans {
    let mean = |figure: fn(&Row) -> Option<f64>| Mean::of(of(rows, name).filter_map(figure));
    let differences = of(rows, name).zip(of(rows, first)).map(|(row, first)| row.psnr - first.psnr);
    MethodMeans {
        name: name.into(),
        method,
        steps,
        picture: picture_name(name),
        psnr: mean(|r| Some(r.psnr)),
        ssim: mean(|r| Some(r.ssim)),
        lpips: mean(|r| r.lpips),
        residual_over_noise: mean(|r| r.residual_over_noise),
        passes: of(rows, name).map(|r| r.passes).max().unwrap_or(0),
        seconds: mean(|r| r.seconds),
        psnr_over_first: if name == first { None } else { Mean::of(differences) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::compare::rows::tests::rows;

    #[test]
    fn means_and_differences_are_paired_by_photo() {
        let rows = rows();
        let methods: Vec<MethodMeans> = [("naive", None), ("dps", Some(2))]
            .map(|(name, steps)| means_of(&rows, name, name.into(), steps, "dps"))
            .to_vec();
        let lead = methods[0].psnr_over_first.unwrap();
        // -3 and -1: variance 2, of two photos.
        assert!((lead.mean + 2.0).abs() < 1e-12 && (lead.standard_error.unwrap() - 1.0).abs() < 1e-12);
        assert!(methods[1].psnr_over_first.is_none());
    }
}
