//! Work in parallel parts, with progress and a way to stop.

use crate::error::{Error, Result};
use rayon::prelude::*;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Is told how many parts of the work are done, of how many; stops the work by
/// [`ControlFlow::Break`].
pub type Watch<'a> = &'a (dyn Fn(usize, usize) -> ControlFlow<()> + Sync);

/// The results of `count` parts, in their order. The error is [`Error::Cancelled`] if `watch` stops
/// the work.
pub fn in_parallel<T: Send>(count: usize, watch: Watch<'_>, part: impl Fn(usize) -> T + Sync) -> Result<Vec<T>> {
    let done = AtomicUsize::new(0);
    let run = |i| {
        check(watch, done.load(Ordering::Relaxed), count)?;
        let result = part(i);
        done.fetch_add(1, Ordering::Relaxed);
        Ok(result)
    };
    (0..count).into_par_iter().map(run).collect()
}

/// Tells `watch` how far the work is. The error is [`Error::Cancelled`] if it stops the work.
pub fn check(watch: Watch<'_>, done: usize, count: usize) -> Result<()> {
    if watch(done, count).is_break() { Err(Error::Cancelled) } else { Ok(()) }
}
