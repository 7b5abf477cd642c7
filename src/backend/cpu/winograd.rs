//! Winograd's F(2, 3) along the rows of a 3x3 convolution of stride 1 (Lavin & Gray 2016, section 4.1): two neighbouring outputs
//! from four products per kernel row and channel instead of six.
//!
//! With d0..d3 the inputs under a kernel row at both outputs and g0..g2 its weights,
//!   m0 = (d0 - d2) g0,  m1 = (d1 + d2) (g0 + g1 + g2) / 2,  m2 = (d2 - d1) (g0 - g1 + g2) / 2,  m3 = (d1 - d3) g2,
//!   y0 = m0 + m1 + m2,  y1 = m1 - m2 - m3,
//! where the m are summed over kernel rows and channels before they are combined (conv_line.rs). All factors are 1 and 1/2: the
//! rounding error is about that of the plain sums. Two outputs along the other axis as well would save another third, but
//! each input row would be transformed anew for every pair of output rows.

/// Products per kernel row and channel.
pub(super) const PRODUCTS: usize = 4;

/// Weights (3 kernel rows, 3, run) to (PRODUCTS, 3 kernel rows, run); a run is what lies at one tap.
pub(super) fn transform_weights(direct: &[f32], run: usize, out: &mut [f32]) {
    for (y, row) in direct.chunks(3 * run).enumerate() {
        let (g0, rest) = row.split_at(run);
        let (g1, g2) = rest.split_at(run);
        for i in 0..run {
            let (outer, inner) = (0.5 * (g0[i] + g2[i]), 0.5 * g1[i]);
            for (t, g) in [g0[i], outer + inner, outer - inner, g2[i]].into_iter().enumerate() {
                out[(t * 3 + y) * run + i] = g;
            }
        }
    }
}

/// A padded row (2 pairs + 2 columns, channels) to (PRODUCTS, pairs, channels).
#[inline(always)]
pub(super) fn transform_row(padded: &[f32], channels: usize, out: &mut [f32]) {
    let part = out.len() / PRODUCTS;
    let (o0, rest) = out.split_at_mut(part);
    let (o1, rest) = rest.split_at_mut(part);
    let (o2, o3) = rest.split_at_mut(part);
    for pair in 0..part / channels {
        let d = &padded[2 * pair * channels..][..4 * channels];
        let [d0, d1, d2, d3] = [0, 1, 2, 3].map(|k| &d[k * channels..][..channels]);
        let [o0, o1, o2, o3] = [&mut *o0, &mut *o1, &mut *o2, &mut *o3].map(|o| &mut o[pair * channels..][..channels]);
        for c in 0..channels {
            o0[c] = d0[c] - d2[c];
            o1[c] = d1[c] + d2[c];
            o2[c] = d2[c] - d1[c];
            o3[c] = d1[c] - d3[c];
        }
    }
}
