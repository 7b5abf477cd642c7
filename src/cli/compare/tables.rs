//! The tables of means and of single photos.

use super::results::MethodMeans;
use super::rows::Row;
use crate::cli::mean::Mean;
use crate::report::{Column, FigureTable};

/// A column of figures with so many decimals. The best is the largest, or the smallest.
fn column(head: &str, values: Vec<Option<f64>>, decimals: usize, best: Best) -> Column {
    let cells = values.iter().map(|v| v.map_or("-".into(), |v| format!("{v:.decimals$}"))).collect();
    Column { head: head.into(), cells, best: best.of(&values) }
}

#[derive(Clone, Copy)]
enum Best {
    Largest,
    Smallest,
    None,
}

impl Best {
    /// The position of the best value.
    fn of(self, values: &[Option<f64>]) -> Option<usize> {
        let sign = match self {
            Best::Largest => 1.0,
            Best::Smallest => -1.0,
            Best::None => return None,
        };
        let known =
            values.iter().enumerate().filter_map(|(k, v)| v.map(|v| (k, sign * v))).filter(|(_, v)| !v.is_nan());
        known.reduce(|best, other| if other.1 > best.1 { other } else { best }).map(|(k, _)| k)
    }
}

/// Mean and standard error with a place for the error that a single photo does not have.
fn with_error(mean: Mean, signed: bool) -> String {
    let error = mean.standard_error.map_or("-".into(), |e| format!("{e:.2}"));
    match signed {
        true => format!("{:+.2} ± {error}", mean.mean),
        false => format!("{:.2} ± {error}", mean.mean),
    }
}

/// The table of means.
pub(super) fn means_table(methods: &[MethodMeans]) -> FigureTable {
    let values = |of: fn(&MethodMeans) -> Option<Mean>| -> Vec<Option<f64>> {
        methods.iter().map(|m| of(m).map(|mean| mean.mean)).collect()
    };
    let texts = |head: &str, of: &dyn Fn(&MethodMeans) -> Option<String>, best| {
        let cells = methods.iter().map(|m| of(m).unwrap_or("-".into())).collect();
        Column { head: head.into(), cells, best }
    };
    let (psnr, lpips) = (values(|m| m.psnr), values(|m| m.lpips));
    // A method with options would make the column wider than its figures.
    let first = methods.get(1).map(|m| m.name.as_str()).filter(|name| name.len() <= 12);
    let lead = format!("dB over {}", first.unwrap_or("the first"));
    let mut columns = vec![
        texts("method", &|m| Some(m.name.clone()), None),
        texts("PSNR, dB", &|m| m.psnr.map(|mean| with_error(mean, false)), Best::Largest.of(&psnr)),
        texts(&lead, &|m| m.psnr_over_first.map(|mean| with_error(mean, true)), None),
        column("SSIM", values(|m| m.ssim), 3, Best::Largest),
    ];
    if lpips.iter().any(Option::is_some) {
        columns.push(column("LPIPS", lpips, 3, Best::Smallest));
    }
    columns.extend([
        column("residual/noise", values(|m| m.residual_over_noise), 2, Best::None),
        texts("passes", &|m| m.steps.map(|_| m.passes.to_string()), None),
        column("seconds", values(|m| m.seconds), 1, Best::None),
    ]);
    FigureTable(columns)
}

/// The table of one photo, which has few columns so that it fits a phone.
pub(super) fn photo_table(rows: &[Row]) -> FigureTable {
    let values = |of: fn(&Row) -> Option<f64>| -> Vec<Option<f64>> { rows.iter().map(of).collect() };
    let names = rows.iter().map(|r| r.method.clone()).collect();
    let mut columns = vec![
        Column { head: "method".into(), cells: names, best: None },
        column("PSNR, dB", values(|r| Some(r.psnr)), 2, Best::Largest),
        column("SSIM", values(|r| Some(r.ssim)), 3, Best::Largest),
    ];
    let lpips = values(|r| r.lpips);
    if lpips.iter().any(Option::is_some) {
        columns.push(column("LPIPS", lpips, 3, Best::Smallest));
    }
    columns.push(column("seconds", values(|r| r.seconds), 1, Best::None));
    FigureTable(columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::compare::results::means_of;
    use crate::cli::compare::rows::tests::rows;

    #[test]
    fn the_best_are_marked_and_one_photo_has_no_error() {
        let rows = rows();
        let methods =
            [("naive", None), ("dps", Some(2))].map(|(name, steps)| means_of(&rows, name, name.into(), steps, "dps"));
        let lines = [
            "method      PSNR, dB   dB over dps   SSIM   LPIPS  residual/noise  passes  seconds",
            "naive   22.00 ± 2.00  -2.00 ± 1.00  0.500* 18.000               -       -      1.0",
            "dps     24.00 ± 1.00*            -  0.500  16.000*              -       4      1.0",
        ];
        assert_eq!(means_table(&methods).text(), lines.join("\n"));
        let one = means_of(&rows[..2], "naive", "bicubic".into(), None, "dps");
        assert!(means_table(&[one]).text().contains("20.00 ± -"));
    }

    #[test]
    fn the_best_of_a_photo_are_marked() {
        let mut rows = rows()[..2].to_vec();
        rows[0].ssim = 0.6;
        let lines = [
            "method  PSNR, dB   SSIM   LPIPS  seconds",
            "naive      20.00  0.600* 20.000      1.0",
            "dps        23.00* 0.500  17.000*     1.0",
        ];
        assert_eq!(photo_table(&rows).text(), lines.join("\n"));
    }

    #[test]
    fn what_is_not_known_is_not_the_best() {
        assert_eq!(Best::Largest.of(&[None, Some(1.0), Some(f64::NAN), Some(2.0)]), Some(3));
        assert_eq!(Best::Smallest.of(&[None, Some(1.0), Some(2.0)]), Some(1));
        assert_eq!(Best::None.of(&[Some(1.0)]), None);
    }
}
