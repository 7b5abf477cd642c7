//! The references are written once and run in f64, for the truth, and in f32, for the error that
//! plain arithmetic makes.

use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

pub trait Real:
    Copy
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
{
    fn of(v: f64) -> Self;
    fn value(self) -> f64;
    fn exp(self) -> Self;
    fn sqrt(self) -> Self;
    fn erf(self) -> Self;
}

macro_rules! real {
    ($t:ty, $erf:path) => {
        impl Real for $t {
            fn of(v: f64) -> Self {
                v as $t
            }
            fn value(self) -> f64 {
                self as f64
            }
            fn exp(self) -> Self {
                <$t>::exp(self)
            }
            fn sqrt(self) -> Self {
                <$t>::sqrt(self)
            }
            fn erf(self) -> Self {
                $erf(self)
            }
        }
    };
}
real!(f32, libm::erff);
real!(f64, libm::erf);

pub fn zero<T: Real>() -> T {
    T::of(0.0)
}

pub fn silu<T: Real>(x: T) -> T {
    x / (T::of(1.0) + (-x).exp())
}

pub fn gelu<T: Real>(x: T, quick: bool) -> T {
    match quick {
        true => x / (T::of(1.0) + (-(T::of(1.702) * x)).exp()),
        false => T::of(0.5) * x * (T::of(1.0) + (x / T::of(2.0).sqrt()).erf()),
    }
}
