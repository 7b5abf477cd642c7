//! Loops over all cores, and functions compiled for the widest vectors of the CPU.

use rayon::prelude::*;
use std::cell::Cell;
use std::ops::{Deref, DerefMut};

/// Elements per task: enough to outweigh the cost of a task, few enough to stay in the cache.
const CHUNK: usize = 1 << 15;

/// Compiles a function for AVX-512, AVX2 and the baseline, and calls the widest version that the
/// CPU supports.
///
/// This is a macro because a closure would not do: it is compiled with the CPU features of its
/// surroundings unless it is inlined, and large closures are not inlined.
macro_rules! vectorised {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$attribute])*
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            $(#[$attribute])*
            fn plain($($argument: $type),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
                $(#[$attribute])*
                fn avx512($($argument: $type),*) $(-> $result)? {
                    plain($($argument),*)
                }
                #[target_feature(enable = "avx2")]
                $(#[$attribute])*
                fn avx2($($argument: $type),*) $(-> $result)? {
                    plain($($argument),*)
                }
                let has_512 = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq");
                if has_512 {
                    // SAFETY: the features were detected just before.
                    return unsafe { avx512($($argument),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the feature was detected just before.
                    return unsafe { avx2($($argument),*) };
                }
            }
            plain($($argument),*)
        }
    };
}
pub(crate) use vectorised;

/// A buffer of floats that its thread keeps for the next one: fresh pages cost more than what is
/// computed in them. It holds old values, and may be longer than was asked for.
pub struct Scratch(Vec<f32>);

thread_local! {
    static SPARE: Cell<Vec<Vec<f32>>> = const { Cell::new(Vec::new()) };
}

impl Scratch {
    /// A buffer of at least `len` floats.
    pub fn new(len: usize) -> Scratch {
        let mut spare = SPARE.take();
        let mut values = spare.pop().unwrap_or_default();
        SPARE.set(spare);
        if values.len() < len {
            values = vec![0.0; len];
        }
        Scratch(values)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut spare = SPARE.take();
        spare.push(std::mem::take(&mut self.0));
        SPARE.set(spare);
    }
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

/// Splits `out` into tasks, each within one batch item: `f(item, offset in the item, values)`.
pub fn for_item_chunks(out: &mut [f32], item: usize, f: impl Fn(usize, usize, &mut [f32]) + Sync) {
    if out.len() <= CHUNK / 4 {
        for (n, values) in out.chunks_mut(item).enumerate() {
            f(n, 0, values);
        }
        return;
    }
    out.par_chunks_mut(item).enumerate().for_each(|(n, values)| {
        values.par_chunks_mut(CHUNK).enumerate().for_each(|(k, part)| f(n, k * CHUNK, part));
    });
}

/// `out[i] = f(a[i])`. Without `a`, `out` holds its values beforehand.
pub fn map1(out: &mut [f32], a: Option<&[f32]>, f: impl Fn(f32) -> f32 + Sync) {
    let all = out.len();
    for_item_chunks(out, all, |_, at, out| match a {
        Some(a) => out.iter_mut().zip(&a[at..]).for_each(|(o, &a)| *o = f(a)),
        None => out.iter_mut().for_each(|o| *o = f(*o)),
    });
}

/// `out[i] = f(a[i], b[i])`. If one of them is none, `out` holds its values beforehand.
pub fn map2(out: &mut [f32], a: Option<&[f32]>, b: Option<&[f32]>, f: impl Fn(f32, f32) -> f32 + Sync) {
    let all = out.len();
    for_item_chunks(out, all, |_, at, out| match (a, b) {
        (Some(a), Some(b)) => out.iter_mut().zip(a[at..].iter().zip(&b[at..])).for_each(|(o, (&a, &b))| *o = f(a, b)),
        (None, Some(b)) => out.iter_mut().zip(&b[at..]).for_each(|(o, &b)| *o = f(*o, b)),
        (Some(a), None) => out.iter_mut().zip(&a[at..]).for_each(|(o, &a)| *o = f(a, *o)),
        (None, None) => out.iter_mut().for_each(|o| *o = f(*o, *o)),
    });
}

/// Sum of `f(range)` over ranges that cover `0..count`, in f64. The result does not depend on the
/// number of threads.
pub fn sum(count: usize, f: impl Fn(std::ops::Range<usize>) -> f64 + Sync) -> f64 {
    let tasks = count.div_ceil(CHUNK).max(1);
    let partial = |k: usize| f(k * CHUNK..((k + 1) * CHUNK).min(count));
    if tasks == 1 {
        return partial(0);
    }
    (0..tasks).into_par_iter().map(partial).collect::<Vec<f64>>().iter().sum()
}

/// Sum of `values` in f64, as sixteen interleaved sums so that the loop vectorises.
#[inline(always)]
pub fn interleaved_sum(count: usize, value: impl Fn(usize) -> f32) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0f64; LANES];
    let whole = count / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, s) in sums.iter_mut().enumerate() {
            *s += value(start + lane) as f64;
        }
    }
    let tail: f64 = (whole..count).map(|i| value(i) as f64).sum();
    sums.iter().sum::<f64>() + tail
}
