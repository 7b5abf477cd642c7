//! Measurement operators: their adjoints, their spectra, and their values against other software.

mod adjoint;
#[path = "../transforms/cosine.rs"]
mod cosine;
mod from_files;
#[path = "../transforms/hartley.rs"]
mod hartley;
mod jpeg;
mod run;
mod spectrum;
mod values;
