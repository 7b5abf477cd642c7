//! Cases that are timed one by one.

use crate::ops::add::{Add, Scale};
use crate::ops::attention::{Attention, QkvOrder};
use crate::ops::conv::{Conv, ConvWeightVjp, Padding};
use crate::ops::group_norm::{GroupNorm, GroupNormOptions};
use crate::ops::linear::Linear;
use crate::selftest::case::{Case, Input};
use crate::tensor::Shape;

/// A large copy and a large matrix product, which show the limits of memory and arithmetic; then
/// shapes of the 256x256 ADM UNet. Extents are divided by `shrink`.
pub fn timed_cases(shrink: usize) -> Vec<Case> {
    let s = Shape::new;
    let size = |v: usize| (v / shrink).max(8);
    let stored = |shapes: &[Shape]| shapes.iter().map(|&s| Input::stored(s)).collect::<Vec<_>>();
    let copy = stored(&[s(1, size(4096), size(4096), 8)]);
    let product = [s(size(8192), 1, 1, size(4096)), s(size(4096), 1, 1, size(4096)), Shape::vector(size(4096))];
    let mut all = vec![
        Case::new("large copy", Scale { scale: 1.0 }, copy, &[]),
        Case::new("large matrix product", Linear::default(), stored(&product), &[]),
    ];
    for (n, side, c) in [(4, 256, 256), (4, 64, 512), (4, 32, 512), (4, 16, 1024), (1, 8, 1024)] {
        let (side, c) = (size(side), size(c));
        let inputs = stored(&[s(n, side, side, c), s(c, 3, 3, c), Shape::vector(c)]);
        all.push(Case::new(format!("conv 3x3, {n} x {side}x{side}, {c} channels"), Conv::new(3, 1), inputs, &[0]));
    }
    for (n, side, c) in [(4, 64, 512), (4, 16, 1024)] {
        let (side, c) = (size(side), size(c));
        let (op, x) = (ConvWeightVjp { kernel: 3, stride: 1, padding: Padding::Around }, s(n, side, side, c));
        let name = format!("conv_weight_vjp 3x3, {n} x {side}x{side}, {c} channels");
        all.push(Case::new(name, op, stored(&[x, x]), &[]));
    }
    for (n, side, c) in [(4, 32, 512), (4, 16, 1024)] {
        let (side, heads) = (size(side), (size(c) / 64).max(1));
        let name = format!("attention, {n} x {} tokens, {heads} heads of 64", side * side);
        let op = Attention { heads, order: QkvOrder::ByHead };
        all.push(Case::new(name, op, stored(&[s(n, side, side, 192 * heads)]), &[0]));
    }
    let (side, c) = (size(256), size(256).next_multiple_of(32));
    let inputs = stored(&[s(4, side, side, c), Shape::vector(c), Shape::vector(c)]);
    let op = GroupNorm(GroupNormOptions::new(32, 1e-5, true));
    all.push(Case::new(format!("group_norm, 4 x {side}x{side}, {c} channels"), op, inputs, &[0]));
    let x = s(4, size(256), size(256), size(256));
    all.push(Case::new("add", Add { scale: 1.0 }, stored(&[x, x]), &[]));
    all
}
