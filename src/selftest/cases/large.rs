//! Cases with the shapes of real networks.

use crate::ops::attention::{Attention, CrossAttention, QkvOrder};
use crate::ops::conv::Conv;
use crate::ops::geglu::Geglu;
use crate::ops::group_norm::{GroupNorm, GroupNormOptions};
use crate::selftest::case::{Case, Input};
use crate::tensor::Shape;

/// Shapes of adm-256 and of Stable Diffusion 2 at 512x512, with extents divided by `shrink`.
pub fn large_cases(shrink: usize) -> Vec<Case> {
    let s = Shape::new;
    let side = |v: usize| (v / shrink).max(8);
    let channels = |v: usize| (v / shrink).max(64);
    let (c, wide, of_norm) = (channels(512), channels(320), channels(256));
    let (heads, norm) = (wide / 64, GroupNormOptions::new(32, 1e-5, true));
    let (image, pair) = (s(1, side(256), side(256), of_norm), s(1, side(64), side(64), wide));
    let (tokens, text) = (Shape { c: 3 * wide, ..pair }, s(1, 1, 77, wide));
    let stored = |shapes: &[Shape]| shapes.iter().map(|&s| Input::stored(s)).collect::<Vec<_>>();
    let conv = stored(&[s(4, side(64), side(64), c), s(c, 3, 3, c), Shape::vector(c)]);
    let gated = stored(&[pair, s(8 * wide, 1, 1, wide), Shape::vector(8 * wide)]);
    let normed = stored(&[image, Shape::vector(of_norm), Shape::vector(of_norm)]);
    vec![
        Case::new("conv 3x3", Conv::new(3, 1), conv, &[0]),
        Case::new("attention", Attention { heads, order: QkvOrder::ByKind }, stored(&[tokens]), &[0]),
        Case::new("cross_attention", CrossAttention::new(heads), stored(&[pair, text, text]), &[0]),
        Case::new("group_norm", GroupNorm(norm), normed, &[0]),
        Case::new("geglu", Geglu, gated, &[0]),
    ]
}
