//! Measurement operators: their adjoints, their spectra, and their values against other software.

mod adjoint;
mod from_files;
mod jpeg;
mod run;
mod spectrum;
#[path = "../transforms/mod.rs"]
mod transforms;
mod values;
