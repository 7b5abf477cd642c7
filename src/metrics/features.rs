//! The convolutional features that LPIPS compares: AlexNet and VGG16 as torchvision has them,
//! evaluated on the CPU. No gradient is needed, and 11x11 is no size of the engine's
//! convolution, so these are plain functions.

use crate::backend::cpu::matmul::matmul;
use rayon::prelude::*;

/// An image or a feature map of one picture: (height, width, channels), channels fastest.
#[derive(Clone, Debug)]
pub(super) struct Map {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub values: Vec<f32>,
}

/// A part of a network, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// Convolution number `index` of `features` with a ReLU behind it. Zero padding.
    Conv { index: usize, kernel: usize, stride: usize, padding: usize },
    /// The largest value of `kernel` x `kernel` pixels, stride 2, no padding.
    MaxPool { kernel: usize },
    /// The features at this point are compared.
    Compared,
}

const fn conv(index: usize, kernel: usize, stride: usize, padding: usize) -> Part {
    Part::Conv { index, kernel, stride, padding }
}

const fn conv3(index: usize) -> Part {
    conv(index, 3, 1, 1)
}

/// AlexNet (torchvision's, Krizhevsky 2014): compared behind each ReLU.
pub(super) const ALEX: &[Part] = &[
    conv(0, 11, 4, 2),
    Part::Compared,
    Part::MaxPool { kernel: 3 },
    conv(3, 5, 1, 2),
    Part::Compared,
    Part::MaxPool { kernel: 3 },
    conv3(6),
    Part::Compared,
    conv3(8),
    Part::Compared,
    conv3(10),
    Part::Compared,
];

/// VGG16 (Simonyan and Zisserman 2015): compared behind the last ReLU of each block.
pub(super) const VGG16: &[Part] = &[
    conv3(0),
    conv3(2),
    Part::Compared,
    Part::MaxPool { kernel: 2 },
    conv3(5),
    conv3(7),
    Part::Compared,
    Part::MaxPool { kernel: 2 },
    conv3(10),
    conv3(12),
    conv3(14),
    Part::Compared,
    Part::MaxPool { kernel: 2 },
    conv3(17),
    conv3(19),
    conv3(21),
    Part::Compared,
    Part::MaxPool { kernel: 2 },
    conv3(24),
    conv3(26),
    conv3(28),
    Part::Compared,
];

/// Index and kernel size of the convolutions of a network, in order.
pub(super) fn convolutions(parts: &[Part]) -> Vec<(usize, usize)> {
    let of = |p: &Part| if let Part::Conv { index, kernel, .. } = p { Some((*index, *kernel)) } else { None };
    parts.iter().filter_map(of).collect()
}

/// The least height and width of a picture that a network takes.
pub(super) fn least_side(parts: &[Part]) -> usize {
    // From the last part to the first: the input that gives so many output pixels.
    parts.iter().rev().fold(1, |side, part| match *part {
        Part::Conv { kernel, stride, padding, .. } => ((side - 1) * stride + kernel).saturating_sub(2 * padding).max(1),
        Part::MaxPool { kernel } => (side - 1) * 2 + kernel,
        Part::Compared => side,
    })
}

/// Weights of a convolution.
pub(super) struct Layer {
    /// (kernel, kernel, inputs, outputs), outputs fastest.
    pub weights: Vec<f32>,
    /// One value per output.
    pub bias: Vec<f32>,
}

/// The feature maps of a picture that are compared. There is one layer per convolution of `parts`.
pub(super) fn features(parts: &[Part], layers: &[Layer], picture: Map) -> Vec<Map> {
    let (mut at, mut layers, mut compared) = (picture, layers.iter(), Vec::new());
    for part in parts {
        match *part {
            Part::Conv { kernel, stride, padding, .. } => {
                let layer = layers.next().expect("a layer for each convolution");
                at = convolved(&at, layer, kernel, stride, padding);
            }
            Part::MaxPool { kernel } => at = max_pooled(&at, kernel),
            Part::Compared => compared.push(at.clone()),
        }
    }
    compared
}

/// Output pixels of a task: enough rows for the matrix product, few enough to keep the patches in
/// the cache.
const TASK_PIXELS: usize = 128;

/// The convolution and a ReLU: patches of the input, as rows of a matrix, times the weights.
fn convolved(x: &Map, layer: &Layer, kernel: usize, stride: usize, padding: usize) -> Map {
    let extent = |side: usize| (side + 2 * padding - kernel) / stride + 1;
    let (height, width, outputs) = (extent(x.height), extent(x.width), layer.bias.len());
    let (run, depth) = (x.channels, kernel * kernel * x.channels);
    let mut values = vec![0.0; height * width * outputs];
    values.par_chunks_mut(TASK_PIXELS * outputs).enumerate().for_each(|(task, out)| {
        let pixels = out.len() / outputs;
        let mut patches = vec![0.0; pixels * depth];
        for (k, patch) in patches.chunks_mut(depth).enumerate() {
            let pixel = task * TASK_PIXELS + k;
            let (row, column) = (pixel / width * stride, pixel % width * stride);
            for (tap, to) in patch.chunks_mut(run).enumerate() {
                // Row and column of the padded input.
                let (i, j) = (row + tap / kernel, column + tap % kernel);
                if (padding..padding + x.height).contains(&i) && (padding..padding + x.width).contains(&j) {
                    let from = ((i - padding) * x.width + j - padding) * run;
                    to.copy_from_slice(&x.values[from..from + run]);
                }
            }
        }
        out.chunks_mut(outputs).for_each(|pixel| pixel.copy_from_slice(&layer.bias));
        let sizes = (pixels, outputs, depth);
        matmul(sizes, out, (outputs, 1), true, &patches, (depth, 1), &layer.weights, (outputs, 1), 1.0);
        out.iter_mut().for_each(|v| *v = v.max(0.0));
    });
    Map { height, width, channels: outputs, values }
}

fn max_pooled(x: &Map, kernel: usize) -> Map {
    let extent = |side: usize| (side - kernel) / 2 + 1;
    let (height, width, c) = (extent(x.height), extent(x.width), x.channels);
    let mut values = vec![f32::NEG_INFINITY; height * width * c];
    values.par_chunks_mut(width * c).enumerate().for_each(|(row, out)| {
        for (column, out) in out.chunks_mut(c).enumerate() {
            for tap in 0..kernel * kernel {
                let from = ((2 * row + tap / kernel) * x.width + 2 * column + tap % kernel) * c;
                out.iter_mut().zip(&x.values[from..from + c]).for_each(|(o, &v)| *o = o.max(v));
            }
        }
    });
    Map { height, width, channels: c, values }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_of_the_least_side_has_features_and_a_smaller_one_has_none() {
        assert_eq!((least_side(ALEX), least_side(VGG16)), (31, 16));
    }

    #[test]
    fn max_pooling_takes_the_largest_of_each_window() {
        let values = (0..25).map(|v| ((v * 7) % 25) as f32).collect();
        let pooled = max_pooled(&Map { height: 5, width: 5, channels: 1, values }, 3);
        assert_eq!((pooled.height, pooled.width), (2, 2));
        let largest =
            |i: usize, j: usize| (0..9).map(|t| (((i + t / 3) * 5 + j + t % 3) * 7 % 25) as f32).fold(0.0, f32::max);
        assert_eq!(pooled.values, [largest(0, 0), largest(0, 2), largest(2, 0), largest(2, 2)]);
    }
}
