//! The edges of an image: the magnitude of its gradient along thin lines.

use super::blur::{blur_taps, gaussian_weights};
use super::colour::LUMA;
use super::contract::{Operator, check_colour};
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::image::Picture;
use crate::ops::axis_filter::Taps;
use crate::ops::channel_mix::ChannelMix;
use crate::ops::filter2d::Boundary;
use crate::ops::thin_edges::ThinEdges;
use crate::tensor::Shape;
use std::sync::Arc;

/// `A(x)`: the luma in [0, 1], blurred by a Gaussian of 5x5 pixels with sigma 1, its derivatives by
/// Sobel's filters, and their magnitude where it is a maximum across the edge. This is the first
/// output of kornia's `Canny`; thresholds are not part of it. One channel, from 0 to about 5.
#[derive(Debug)]
pub struct Edge;

/// Three taps along an axis of `n` pixels. Beyond the border the edge pixel is repeated.
fn sobel(n: usize, weights: [f32; 3]) -> Taps {
    let place = |i: usize, k: usize| (i + k).saturating_sub(1).min(n - 1);
    Taps { rows: (0..n).map(|i| (0..3).map(|k| (place(i, k), weights[k])).collect()).collect(), inputs: n }
}

impl Operator for Edge {
    fn task(&self) -> String {
        "edge".into()
    }
    fn measurement_shape(&self, x: Shape) -> Shape {
        Shape { c: 1, ..x }
    }
    fn check(&self, x: Shape) -> Result<()> {
        check_colour(self, x)
    }
    fn build(&self, g: &mut Graph, x: TensorId, _: Option<TensorId>) -> Result<TensorId> {
        let shape = g.shape(x);
        let (mean, slope) = ([1.0, 2.0, 1.0], [-1.0, 0.0, 1.0]);
        // From [-1, 1] to [0, 1] the slopes are halved. What is added has no slope.
        let luma = g.one(ChannelMix { rows: vec![LUMA.map(|w| 0.5 * w).to_vec()] }, "operator.luma", &[x])?;
        let taps = |n: usize| Arc::new(blur_taps(n, &gaussian_weights(5, 1.0), Some(Boundary::Reflect)));
        let luma = g.along_axes("operator.blur", luma, [taps(shape.h), taps(shape.w)])?;
        let of = |rows, columns| [Arc::new(sobel(shape.h, rows)), Arc::new(sobel(shape.w, columns))];
        let along = g.along_axes("operator.along-width", luma, of(mean, slope))?;
        let down = g.along_axes("operator.along-height", luma, of(slope, mean))?;
        g.one(ThinEdges, "operator.thin", &[along, down])
    }
    fn is_linear(&self) -> bool {
        false
    }
    fn measures_pictures(&self) -> bool {
        false
    }

    /// White where the magnitude is 2 or more.
    fn picture(&self, y: &[f32], shape: Shape) -> Picture {
        let values = y.iter().flat_map(|&v| [v.min(2.0) - 1.0; 3]).collect();
        Picture { width: shape.w, height: shape.h, values }
    }

    fn naive(&self, _: &[f32], _: &[f32], x: Shape) -> Option<(&'static str, Picture)> {
        Some(("grey", Picture { width: x.w, height: x.h, values: vec![0.0; x.item()] }))
    }
}
