//! Products of small matrices with arbitrary strides.
//!
//! The package could use AVX-512 (`x86-v4`), but would then round sums in another order than with
//! AVX2, and a seed would give other bits on another CPU. It costs a twentieth of an evaluation.

/// `out (+)= factor a b` on the calling thread. The sizes are (rows, columns, depth), the strides
/// (row, column) in elements.
#[allow(clippy::too_many_arguments)]
pub fn matmul(
    (m, n, k): (usize, usize, usize),
    out: &mut [f32],
    out_strides: (usize, usize),
    add: bool,
    a: &[f32],
    a_strides: (usize, usize),
    b: &[f32],
    b_strides: (usize, usize),
    factor: f32,
) {
    let reach = |(r, c): (usize, usize), rows: usize, columns: usize| (rows - 1) * r + (columns - 1) * c;
    assert!(out.len() > reach(out_strides, m, n));
    assert!(a.len() > reach(a_strides, m, k) && b.len() > reach(b_strides, k, n));
    // SAFETY: the assertions bound every address; `out` is borrowed mutably, so it overlaps neither
    // factor.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            out_strides.1 as isize,
            out_strides.0 as isize,
            add,
            a.as_ptr(),
            a_strides.1 as isize,
            a_strides.0 as isize,
            b.as_ptr(),
            b_strides.1 as isize,
            b_strides.0 as isize,
            1.0,
            factor,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
