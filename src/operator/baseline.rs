//! A naive restoration. Some methods start from it, and results are compared with it.

use crate::image::Picture;
use crate::operator::{Observed, Operator, resize_cubic};
use crate::tensor::Shape;

/// Name and picture of a naive restoration of an image of shape `x`. Missing pixels take the
/// nearest known ones. A measurement of another size is resized with the cubic kernel. Otherwise
/// the measurement itself is the restoration.
pub fn baseline(operator: &dyn Operator, y: &Picture, state: &[f32], x: Shape) -> (&'static str, Picture) {
    let (name, filled) = match operator.observed(state) {
        Observed::All => ("measurement", y.clone()),
        Observed::Mask(mask) => ("nearest pixel", nearest_fill(y, mask)),
    };
    match (y.height, y.width) == (x.h, x.w) {
        true => (name, filled),
        false => ("bicubic", resize_cubic(&filled, x.h, x.w).clamped()),
    }
}

/// The naive restoration of a measurement y, (h, w, c) of `canvas`. Beyond the image, of shape
/// `image`, it repeats the last row and column.
pub fn baseline_on_canvas(operator: &dyn Operator, y: Picture, state: &[f32], image: Shape, canvas: Shape) -> Vec<f32> {
    let (_, naive) = baseline(operator, &y, state, image);
    let (w, h, c) = (canvas.w, canvas.h, image.c);
    let mut continued = Vec::with_capacity(w * h * c);
    for i in 0..w * h {
        let from = (i / w).min(image.h - 1) * image.w + (i % w).min(image.w - 1);
        continued.extend_from_slice(&naive.values[from * c..][..c]);
    }
    continued
}

/// Fills every missing pixel (`mask` 0) with the nearest known one, by a flood fill from the known
/// pixels over eight neighbours.
pub fn nearest_fill(y: &Picture, mask: &[f32]) -> Picture {
    let mut out = y.clone();
    let (w, h) = (y.width as isize, y.height as isize);
    let mut origin: Vec<Option<usize>> = mask.iter().enumerate().map(|(i, &m)| (m != 0.0).then_some(i)).collect();
    let distance = |from: usize, to: usize| {
        let (dy, dx) =
            ((from / y.width) as isize - (to / y.width) as isize, (from % y.width) as isize - (to % y.width) as isize);
        dx * dx + dy * dy
    };
    let mut front: Vec<usize> = (0..mask.len()).filter(|&i| mask[i] != 0.0).collect();
    while !front.is_empty() {
        let mut next = Vec::new();
        for &i in &front {
            let Some(from) = origin[i] else { continue };
            let (row, column) = ((i / y.width) as isize, (i % y.width) as isize);
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
    for (i, from) in origin.iter().enumerate() {
        if let Some(from) = from {
            let pixel: [f32; 3] = std::array::from_fn(|c| y.values[from * 3 + c]);
            out.values[i * 3..i * 3 + 3].copy_from_slice(&pixel);
        }
    }
    out
}
