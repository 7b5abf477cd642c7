//! Kernel variants: several ways to compute one operation on CUDA devices.
//!
//! An op with variants has a table of them, best first. The recorder takes the first one that
//! computes the problem on the chip and is expected to pay. A plan can force others.

use crate::launch::{Choice, Recorder};

/// One way to compute a problem `P`.
pub struct Variant<P: 'static> {
    /// Name in its table, for example `mma_128`.
    pub name: &'static str,
    /// Whether it computes the problem on the recorder's chip.
    pub takes: fn(&P, &Recorder<'_>) -> bool,
    /// Whether it is expected to be faster than the variants after it.
    pub pays: fn(&P, &Recorder<'_>) -> bool,
    /// Records its launches.
    pub record: fn(&P, &mut Recorder<'_>),
}

/// The variants of an operation, best first. The last one is taken if none pays.
pub struct Variants<P: 'static> {
    /// Name of the operation.
    pub op: &'static str,
    /// The variants.
    pub all: &'static [Variant<P>],
}

/// For [`Variant::pays`]: a variant that is faster than those after it wherever it can be used.
pub fn always<P>(_: &P, _: &Recorder<'_>) -> bool {
    true
}

impl Recorder<'_> {
    /// Records the best variant that takes the problem, or a forced one.
    ///
    /// # Panics
    ///
    /// If no variant takes the problem.
    pub fn record_best<P>(&mut self, variants: &'static Variants<P>, problem: &P) {
        let takes: Vec<&Variant<P>> = variants.all.iter().filter(|v| (v.takes)(problem, self)).collect();
        let forced = |v: &&&Variant<P>| self.forced.is_forced(variants.op, v.name);
        let forced: Vec<&Variant<P>> = takes.iter().filter(forced).copied().collect();
        let among = if forced.is_empty() { &takes } else { &forced };
        let paying = among.iter().find(|v| (v.pays)(problem, self)).or(among.last());
        let chosen = *paying.unwrap_or_else(|| panic!("no variant of {} takes the problem", variants.op));
        let takes = takes.iter().map(|v| v.name).collect();
        self.choices.push(Choice { op: variants.op, chosen: chosen.name, takes });
        (chosen.record)(problem, self);
    }
}
