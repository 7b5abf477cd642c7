//! A naive restoration. Some methods start from it, and results are compared with it.

use super::contract::{Observed, Operator};
use super::resize::resize_cubic;
use crate::image::Picture;
use crate::tensor::Shape;

/// Name and picture of a naive restoration of an image of shape `x` (n = 1) from its measurement y.
/// It is the one that the operator [gives](Operator::naive), if any. Else it follows from the
/// measurement as a picture: missing values take the nearest known ones, and a picture of another
/// size is resized with the cubic kernel.
pub fn baseline(operator: &dyn Operator, y: &[f32], state: &[f32], x: Shape) -> (&'static str, Picture) {
    if let Some(naive) = operator.naive(y, state, x) {
        return naive;
    }
    let picture = operator.picture(y, operator.measurement_shape(x));
    let (name, filled) = match operator.observed(x, state) {
        Observed::All => ("measurement", picture),
        Observed::Mask(mask) => ("nearest pixel", nearest_fill(&picture, mask)),
    };
    match (filled.height, filled.width) == (x.h, x.w) {
        true => (name, filled),
        false => ("bicubic", resize_cubic(&filled, x.h, x.w).clamped()),
    }
}

/// Fills every missing value (`mask` 0) with the nearest known one of its channel. The mask has a
/// value per pixel, or one per value of the picture.
pub fn nearest_fill(y: &Picture, mask: &[f32]) -> Picture {
    let mut out = y.clone();
    let pixels = y.width * y.height;
    let masks = mask.len() / pixels;
    for k in 0..masks {
        let is_known: Vec<bool> = mask.iter().skip(k).step_by(masks).map(|&m| m != 0.0).collect();
        for (i, from) in nearest_known(&is_known, y.width).into_iter().enumerate() {
            let Some(from) = from else { continue };
            let channels = if masks == 1 { 0..3 } else { k..k + 1 };
            channels.for_each(|c| out.values[i * 3 + c] = y.values[from * 3 + c]);
        }
    }
    out
}

/// For every pixel of rows of `width` pixels the nearest known one, by a flood fill from the known
/// pixels over eight neighbours. None if no pixel is known.
fn nearest_known(is_known: &[bool], width: usize) -> Vec<Option<usize>> {
    let (w, h) = (width as isize, (is_known.len() / width) as isize);
    let mut origin: Vec<Option<usize>> = is_known.iter().enumerate().map(|(i, known)| known.then_some(i)).collect();
    let distance = |from: usize, to: usize| {
        let dy = (from / width) as isize - (to / width) as isize;
        let dx = (from % width) as isize - (to % width) as isize;
        dx * dx + dy * dy
    };
    let mut front: Vec<usize> = (0..is_known.len()).filter(|&i| is_known[i]).collect();
    while !front.is_empty() {
        let mut next = Vec::new();
        for &i in &front {
            let Some(from) = origin[i] else { continue };
            let (row, column) = ((i / width) as isize, (i % width) as isize);
            for (dy, dx) in [(-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)] {
                let (r, c) = (row + dy, column + dx);
                if r < 0 || c < 0 || r >= h || c >= w {
                    continue;
                }
                let j = (r * w + c) as usize;
                if origin[j].is_none_or(|other| distance(from, j) < distance(other, j)) {
                    origin[j] = Some(from);
                    next.push(j);
                }
            }
        }
        front = next;
    }
    origin
}

/// The naive restoration of a measurement y, (h, w, c) of `canvas`. Beyond the image, of shape
/// `image` (n = 1), it repeats the last row and column.
pub fn baseline_on_canvas(operator: &dyn Operator, y: &[f32], state: &[f32], image: Shape, canvas: Shape) -> Vec<f32> {
    let (_, naive) = baseline(operator, y, state, image);
    let (w, h, c) = (canvas.w, canvas.h, image.c);
    let mut continued = Vec::with_capacity(w * h * c);
    for i in 0..w * h {
        let from = (i / w).min(image.h - 1) * image.w + (i % w).min(image.w - 1);
        continued.extend_from_slice(&naive.values[from * c..][..c]);
    }
    continued
}
