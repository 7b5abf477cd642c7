//! Similarity of a restored picture to the truth: PSNR, SSIM and LPIPS.
//!
//! [`Comparison`] says what is compared: channels, range of the values and a border that is left
//! out. [`psnr`] and [`ssim`] are the two that results report.

mod comparison;
mod features;
mod lpips;

pub use comparison::{Channels, Comparison, Values, psnr, ssim};
pub use lpips::{Lpips, LpipsRange};
