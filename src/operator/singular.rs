//! Singular values and right singular vectors of the map along one axis, in f64.
//!
//! One-sided Jacobi rotations (Hestenes 1958): two rows of the map are turned until they are
//! orthogonal, and so on for all pairs. A map R = U S V^T becomes U^T R = S V^T: the lengths of the
//! rows are the singular values, and their directions are the right singular vectors.

use crate::ops::axis_filter::Taps;

/// Singular values below this share of the largest one count as 0.
const LEAST: f64 = 1e-4;
/// The rows are orthogonal if the cosines of their angles are below this.
const ORTHOGONAL: f64 = 1e-13;
/// Most turns of each pair of rows. About ten make the rows orthogonal.
const TURNS: usize = 40;

/// The map along one axis, described by its singular values.
#[derive(Clone)]
pub(super) struct Singular {
    /// The singular values above 0, the largest first.
    pub values: Vec<f64>,
    /// The right singular vectors in the same order: row k holds vector k.
    pub vectors: Taps,
}

/// Of the maps along the height and along the width.
pub(super) fn right_singular([rows, columns]: [Taps; 2]) -> [Singular; 2] {
    let of_rows = Singular::of(&rows);
    let of_columns = if columns == rows { of_rows.clone() } else { Singular::of(&columns) };
    [of_rows, of_columns]
}

impl Singular {
    fn of(map: &Taps) -> Singular {
        let mut rows: Vec<Vec<f64>> = map
            .rows
            .iter()
            .map(|taps| {
                let mut row = vec![0.0; map.inputs];
                taps.iter().for_each(|&(j, w)| row[j] += f64::from(w));
                row
            })
            .collect();
        for _ in 0..TURNS {
            if turn_all(&mut rows) {
                break;
            }
        }
        let mut all: Vec<(f64, Vec<f64>)> = rows.into_iter().map(|r| (dot(&r, &r).sqrt(), r)).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let largest = all.first().map_or(0.0, |first| first.0);
        all.retain(|(value, _)| *value > LEAST * largest);
        let vector =
            |(s, row): &(f64, Vec<f64>)| row.iter().enumerate().map(|(j, v)| (j, (v / s) as f32)).collect::<Vec<_>>();
        let vectors = Taps { rows: all.iter().map(vector).collect(), inputs: map.inputs };
        Singular { values: all.into_iter().map(|a| a.0).collect(), vectors }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    // Eight sums, so that the loop vectorises.
    let mut sums = [0.0; 8];
    let whole = a.len() / 8 * 8;
    for (a, b) in a[..whole].chunks(8).zip(b[..whole].chunks(8)) {
        (0..8).for_each(|i| sums[i] += a[i] * b[i]);
    }
    sums.iter().sum::<f64>() + a[whole..].iter().zip(&b[whole..]).map(|(a, b)| a * b).sum::<f64>()
}

/// Turns each pair of rows until the two are orthogonal. True if all were orthogonal already.
fn turn_all(rows: &mut [Vec<f64>]) -> bool {
    let mut squares: Vec<f64> = rows.iter().map(|r| dot(r, r)).collect();
    // Rows that are far below the least singular value need not be orthogonal.
    let least = (1e-4 * LEAST).powi(2) * squares.iter().fold(0.0, |a: f64, &b| a.max(b));
    let mut done = true;
    for j in 1..rows.len() {
        let (before, from_j) = rows.split_at_mut(j);
        let b = &mut from_j[0];
        for (i, a) in before.iter_mut().enumerate() {
            if squares[i] <= least || squares[j] <= least {
                continue;
            }
            let product = dot(a, b);
            if product.abs() <= ORTHOGONAL * (squares[i] * squares[j]).sqrt() {
                continue;
            }
            done = false;
            let slope = (squares[j] - squares[i]) / (2.0 * product);
            let tangent = slope.signum() / (slope.abs() + slope.hypot(1.0));
            let cosine = tangent.hypot(1.0).recip();
            let sine = cosine * tangent;
            for (a, b) in a.iter_mut().zip(b.iter_mut()) {
                (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
            }
            squares[i] -= tangent * product;
            squares[j] += tangent * product;
        }
    }
    done
}
