//! Measurement operators: their adjoints, their spectra, and their values against other software.

mod adjoint;
#[path = "../cosine/mod.rs"]
mod cosine;
mod spectrum;
mod values;
