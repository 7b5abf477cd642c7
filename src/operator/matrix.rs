//! An operator that the user gives as a sparse matrix.

use super::contract::{Operator, StateOrigin};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::image::Picture;
use crate::ops::axis_filter::Taps;
use crate::ops::sparse_product::SparseProduct;
use crate::options::Options;
use crate::tensor::Shape;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

/// `A(x) = M x` with a sparse matrix M, the same for every channel. A column of M belongs to a
/// pixel, row by row of the image; a row of M to a value of y.
#[derive(Debug)]
pub struct Matrix {
    /// The file of M.
    pub file: String,
    /// M.
    pub taps: Arc<Taps>,
    /// Width and height of the image in pixels.
    pub size: (usize, usize),
}

/// Most rows and columns, as many as an image of 2048x2048 pixels has, and most entries.
const MOST_ROWS: usize = 1 << 22;
const MOST_ENTRIES: usize = 25_000_000;

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Operator>> {
    let form = "write matrix:file=FILE.mtx,width=W,height=H";
    let file = options.text("file").ok_or_else(|| Error::Invalid(form.into()))?;
    let side = |options: &mut Options, key: &str| match options.has(key) {
        true => options.count(key, 1, 1..=65536),
        false => Err(options.error(&format!("{key} is missing; {form}"))),
    };
    let (width, height) = (side(options, "width")?, side(options, "height")?);
    let taps = read(file.as_ref())?;
    if taps.inputs != width * height {
        let reason =
            format!("the matrix has {} columns, an image of {width}x{height} {} pixels", taps.inputs, width * height);
        return Err(Error::Image { path: file.into(), reason });
    }
    Ok(Arc::new(Matrix { file, taps: Arc::new(taps), size: (width, height) }))
}

/// Reads a real matrix in Matrix Market's coordinate format, as `scipy.io.mmwrite` writes it.
fn read(path: &Path) -> Result<Taps> {
    let error =
        |line: usize, reason: &str| Error::Image { path: path.into(), reason: format!("line {line}: {reason}") };
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    let mut lines = BufReader::new(file).lines().enumerate().map(|(k, line)| (k + 1, line));
    let first = lines.next().map_or(Ok(String::new()), |(_, line)| line).map_err(Error::io(path))?;
    let words: Vec<String> = first.split_whitespace().map(str::to_ascii_lowercase).collect();
    let is_known = matches!(
        words.iter().map(String::as_str).collect::<Vec<_>>()[..],
        ["%%matrixmarket", "matrix", "coordinate", "real" | "integer", "general" | "symmetric"]
    );
    if !is_known {
        let reason = format!(
            "expected the header of a real sparse matrix, '%%MatrixMarket matrix coordinate KIND FORM' with KIND real or \
             integer and FORM general or symmetric, found '{}'",
            words.iter().map(|w| readable_word(w)).collect::<Vec<_>>().join(" ")
        );
        return Err(error(1, &reason));
    }
    let is_symmetric = words[4] == "symmetric";
    let mut taps = None;
    let (mut stated, mut found, mut last) = (0, 0, 1);
    for (number, line) in lines {
        let line = line.map_err(Error::io(path))?;
        last = number;
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.is_empty() || words[0].starts_with('%') {
            continue;
        }
        let Some(taps) = &mut taps else {
            let sizes: Option<Vec<usize>> = words.iter().map(|w| w.parse().ok()).collect();
            let Some([rows, columns, entries]) = sizes.as_deref().and_then(|s| <[usize; 3]>::try_from(s).ok()) else {
                return Err(error(number, "expected the numbers of rows, columns and entries"));
            };
            if rows == 0 || columns == 0 || rows.max(columns) > MOST_ROWS || entries > MOST_ENTRIES {
                let reason = format!(
                    "{rows} rows, {columns} columns and {entries} entries; 1 to {MOST_ROWS} rows and columns and at most \
                     {MOST_ENTRIES} entries are possible"
                );
                return Err(error(number, &reason));
            }
            stated = entries;
            taps = Some(Taps { rows: vec![Vec::new(); rows], inputs: columns });
            continue;
        };
        let entry = match words[..] {
            [i, j, value] => (i.parse::<usize>().ok()).zip(j.parse::<usize>().ok()).zip(value.parse::<f32>().ok()),
            _ => None,
        };
        let Some(((i, j), value)) = entry.filter(|(_, v)| v.is_finite()) else {
            return Err(error(number, "expected a row, a column and a finite value"));
        };
        let (rows, columns) = (taps.rows.len(), taps.inputs);
        if !(1..=rows).contains(&i) || !(1..=columns).contains(&j) || is_symmetric && i > columns.min(rows) {
            return Err(error(number, &format!("entry ({i}, {j}) lies outside of the {rows} x {columns} matrix")));
        }
        found += 1;
        if found > stated {
            return Err(error(number, &format!("more than the stated {stated} entries")));
        }
        taps.rows[i - 1].push((j - 1, value));
        if is_symmetric && i != j {
            taps.rows[j - 1].push((i - 1, value));
        }
    }
    match taps {
        Some(_) if found < stated => Err(error(last, &format!("the file ends after {found} of {stated} entries"))),
        Some(taps) if taps.rows.iter().flatten().all(|entry| entry.1 == 0.0) => {
            Err(error(last, "the matrix is 0 everywhere: it measures nothing"))
        }
        Some(taps) => Ok(taps),
        None => Err(error(last, "the file ends before the sizes of the matrix")),
    }
}

/// At most twenty printable characters of a word.
fn readable_word(word: &str) -> String {
    word.chars().filter(|c| !c.is_control()).take(20).collect()
}

impl Matrix {
    /// M for each of `channels` channels, for values whose channels lie side by side.
    fn for_channels(&self, channels: usize) -> Taps {
        let row = |row: &Vec<(usize, f32)>, c: usize| row.iter().map(|&(j, m)| (j * channels + c, m)).collect();
        let rows = self.taps.rows.iter().flat_map(|r| (0..channels).map(move |c| row(r, c))).collect();
        Taps { rows, inputs: self.taps.inputs * channels }
    }

    /// Shape of a measurement (n = 1): its values in a row, or in the image's rows if there are as
    /// many.
    fn shape(&self, x: Shape) -> Shape {
        match self.taps.rows.len() == x.h * x.w {
            true => x,
            false => Shape { h: 1, w: self.taps.rows.len(), ..x },
        }
    }
}

impl Operator for Matrix {
    fn task(&self) -> String {
        format!("matrix:file={},width={},height={}", self.file, self.size.0, self.size.1)
    }
    fn measurement_shape(&self, x: Shape) -> Shape {
        self.shape(x)
    }
    fn image_shape(&self, y: Shape) -> Shape {
        Shape { h: self.size.1, w: self.size.0, ..y }
    }
    fn state_origin(&self) -> StateOrigin<'_> {
        StateOrigin::File(self.file.as_ref())
    }
    fn check(&self, x: Shape) -> Result<()> {
        if (x.w, x.h) == self.size {
            return Ok(());
        }
        let (w, h) = self.size;
        Err(Error::Invalid(format!(
            "{}: the matrix is for images of {w}x{h} pixels, this one has {}x{}; crop it with --size {w}x{h}",
            self.task(),
            x.w,
            x.h
        )))
    }
    fn build(&self, g: &mut Graph, x: TensorId, _: Option<TensorId>) -> Result<TensorId> {
        let shape = g.shape(x);
        let item = Shape { n: 1, ..self.shape(shape) };
        g.one(SparseProduct { matrix: Arc::new(self.for_channels(shape.c)), item }, "operator.matrix", &[x])
    }
    fn measures_pictures(&self) -> bool {
        false
    }

    /// M^T y, stretched to the range of the image.
    fn naive(&self, y: &[f32], _: &[f32], x: Shape) -> Option<(&'static str, Picture)> {
        let back = self.for_channels(x.c).transposed();
        let values: Vec<f32> = back.rows.iter().map(|row| row.iter().map(|&(i, m)| m * y[i]).sum()).collect();
        let largest = values.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
        let values = values.iter().map(|v| v / largest).collect();
        Some(("back projection", Picture { width: x.w, height: x.h, values }))
    }
}
